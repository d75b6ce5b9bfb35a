/*
 * The tag check: a copy or a view that a reader accepts holds the bytes of the life it asked for.
 *
 * Modelled: one slot that its owner uses three times over. A slot has a tag (here just the use number;
 * 0 is invalid), a mark (how many of its two units are covered) and the units, which hold the number of
 * the life that wrote them. The owner invalidates the tag, resets the mark, writes, marks, and stores
 * the new tag. The reader wants any one life: it loads the tag and compares, loads the mark, copies what
 * is covered, loads the tag again, and accepts if nothing changed. An accepted unit must hold the
 * number of the life that the reader wanted.
 *
 * Store buffers: the owner's stores enter its FIFO (`pending`) and reach memory when the buffer's
 * process takes them out, at any later time. By default they leave in order (TSO, as on x86). With PSO
 * stores to different locations leave in any order, as they may on arm64; a release store then waits for
 * all stores before it, and lets the stores after it overtake; a release fence keeps both sides apart.
 * To every onlooker a store that waits in the buffer is the same as an owner that waits before it
 * stores, as long as the owner loads nothing in between, so both are modelled as waiting for an empty
 * buffer. The reader's loads happen in order; the variants that drop an acquire let the one load that it
 * held back go first.
 *
 * Configurations, which hold:
 *   PSO                           stores to different locations leave the owner in any order.
 *   EARLY_TAG                     the new tag is stored right after the reset, and the units and their
 *                                 marks follow one by one: a slot that is read while it is written.
 *   VIEWS                         the reader does not copy: it announces a view, fences, checks tag and
 *                                 mark once, and reads when it pleases. The owner fences after the
 *                                 invalidation and waits until no view is announced.
 *
 * Wrong variants:
 *   WRONG_NO_SECOND_CHECK         the tag is not loaded again after the copy.
 *   WRONG_NOT_INVALIDATED         the old tag stays until the new one replaces it.
 *   WRONG_INVALIDATION_UNORDERED  no fence between the invalidation and the stores after it (fails
 *                                 under PSO; TSO keeps the order by itself).
 *   WRONG_INVALIDATION_RELEASED   the invalidation is a release store and no fence follows: release
 *                                 orders what is before it, not what is after (fails under PSO).
 *   WRONG_TAG_NOT_RELEASED        the new tag is a plain store (fails under PSO).
 *   WRONG_MARK_NOT_RELEASED       the mark is a plain store (fails under PSO with EARLY_TAG; otherwise
 *                                 the release of the tag that follows covers for it).
 *   WRONG_NO_RESET                the mark is not reset (fails with EARLY_TAG).
 *   WRONG_NO_USE_NUMBER           the tag says only valid or not, so a later life looks like ours.
 *   WRONG_TAG_NOT_ACQUIRED        the mark may be loaded before the tag (fails with EARLY_TAG).
 *   WRONG_MARK_NOT_ACQUIRED       the units may be copied before the mark is loaded (the same).
 *   WRONG_NO_ACQUIRE_FENCE        the second load of the tag may come before the copy.
 *   WRONG_NO_VIEW_FENCE           with VIEWS: no fence between announcement and check.
 *   WRONG_NO_OWNER_FENCE          with VIEWS: no fence between invalidation and the look for views.
 *   WRONG_ANNOUNCED_LATE          with VIEWS: announces after the check, and does not check again.
 */

#define LIVES 3

#define TAG 0
#define MARK 1
#define FIRST 2
#define SECOND 3
#define VIEW 4

byte memory[5];
chan pending = [7] of { byte, byte };   /* the owner's stores: where, value */
chan announcing = [2] of { byte };      /* the reader's stores to VIEW */

#ifdef WRONG_NO_USE_NUMBER
#define NAME(life) 1
#else
#define NAME(life) life
#endif

#ifdef PSO
#define ORDERED empty(pending)
#else
#define ORDERED true
#endif

proctype buffer()
{
    byte where, value;
end:
    do
#ifdef PSO
    /* Takes out the oldest store to one location, past those to the others. */
    :: atomic { pending??TAG, value -> memory[TAG] = value; value = 0 }
    :: atomic { pending??MARK, value -> memory[MARK] = value; value = 0 }
    :: atomic { pending??FIRST, value -> memory[FIRST] = value; value = 0 }
    :: atomic { pending??SECOND, value -> memory[SECOND] = value; value = 0 }
#else
    :: atomic { pending?where, value -> memory[where] = value; where = 0; value = 0 }
#endif
    :: atomic { announcing?value -> memory[VIEW] = value; value = 0 }
    od
}

inline store(where, value)
{
    pending!where, value
}

inline storeMark(value)
{
#ifndef WRONG_MARK_NOT_RELEASED
    ORDERED;
#endif
    store(MARK, value)
}

inline storeTag(value)
{
#ifndef WRONG_TAG_NOT_RELEASED
    ORDERED;
#endif
    store(TAG, value)
}

inline invalidate()
{
#ifdef WRONG_INVALIDATION_RELEASED
    ORDERED;
#endif
    store(TAG, 0);
#if !defined(WRONG_INVALIDATION_RELEASED) && !defined(WRONG_INVALIDATION_UNORDERED)
    ORDERED;
#endif
#ifdef VIEWS
#ifndef WRONG_NO_OWNER_FENCE
    empty(pending);
#endif
    memory[VIEW] == 0;
#endif
}

proctype owner()
{
    byte life = 2;
    do
    :: life <= LIVES ->
#ifndef WRONG_NOT_INVALIDATED
        invalidate();
#endif
#ifndef WRONG_NO_RESET
        store(MARK, 0);
#endif
#ifdef EARLY_TAG
        storeTag(NAME(life));
        store(FIRST, life);
        storeMark(1);
        store(SECOND, life);
        storeMark(2);
#else
        store(FIRST, life);
        store(SECOND, life);
        storeMark(2);
        storeTag(NAME(life));
#endif
        life++
    :: else -> break
    od
}

inline copy()
{
    first = memory[FIRST];
    second = memory[SECOND]
}

inline checkBytes()
{
    assert(mark < 1 || first == wanted);
    assert(mark < 2 || second == wanted)
}

proctype copyingReader(byte wanted)
{
    byte mark, first, second;
    bool isChanged;

#ifdef WRONG_TAG_NOT_ACQUIRED
    mark = memory[MARK];
#endif
endLate: /* A reader that comes too late for its life may wait here for ever. */
    memory[TAG] == NAME(wanted);
#ifdef WRONG_MARK_NOT_ACQUIRED
    copy();
#endif
#ifndef WRONG_TAG_NOT_ACQUIRED
    mark = memory[MARK];
#endif

#ifdef WRONG_NO_ACQUIRE_FENCE
    isChanged = memory[TAG] != NAME(wanted);
    copy();
#else
#ifndef WRONG_MARK_NOT_ACQUIRED
    copy();
#endif
#ifndef WRONG_NO_SECOND_CHECK
    isChanged = memory[TAG] != NAME(wanted);
#endif
#endif
    if
    :: isChanged
    :: else -> checkBytes()
    fi
}

proctype viewingReader(byte wanted)
{
    byte mark, first, second;

#ifdef WRONG_ANNOUNCED_LATE
endLate:
    memory[TAG] == NAME(wanted);
    announcing!1;
    empty(announcing);
#else
    announcing!1;
#ifndef WRONG_NO_VIEW_FENCE
    empty(announcing);
#endif
    if
    :: memory[TAG] == NAME(wanted)
    :: memory[TAG] != NAME(wanted) -> goto withdraw
    fi;
#endif
    mark = memory[MARK];
    copy();
    checkBytes();
withdraw:
    announcing!0
}

init {
    byte wanted;
    atomic {
        memory[TAG] = 1;
        memory[MARK] = 2;
        memory[FIRST] = 1;
        memory[SECOND] = 1;
        select(wanted : 1 .. LIVES);
        run buffer();
        run owner();
#ifdef VIEWS
        run viewingReader(wanted)
#else
        run copyingReader(wanted)
#endif
    }
}
