/*
 * The tag check: a copy or a view that a reader accepts holds the bytes of the life it asked for.
 *
 * Modelled: one slot that its owner uses three times over. A slot has a tag (here just the use
 * number; 0 is invalid), a mark (how many of its two units are covered) and the units, which hold
 * the number of the life that wrote them. The owner invalidates the tag, resets the mark, writes,
 * marks, and stores the new tag. The reader wants any one life: it loads the tag and compares,
 * loads the mark, copies what is covered, loads the tag again, and accepts if nothing changed. An
 * accepted unit must hold the number of the life that the reader wanted.
 *
 * Store buffers: the owner's stores enter its buffer (`where`, `value`, `isRelease`) and reach
 * memory when the buffer's process takes them out, at any later time. By default they leave in
 * order (TSO, as on x86). With PSO stores to different locations leave in any order, as they may on
 * arm64; a release store leaves only when all stores before it have left, but the stores after it
 * may overtake it. A release fence keeps the stores before it before those after it; the owner
 * waits for an empty buffer there, which is the same to every onlooker, as the owner loads nothing
 * meanwhile. The reader's loads happen in order; a variant that drops an acquire lets the one load
 * go first that it held back.
 *
 * Configurations, which hold:
 *   PSO                           stores to different locations leave the owner in any order.
 *   EARLY_TAG                     the new tag is stored right after the reset, and the units and
 *                                 their marks follow one by one: a slot that is read while it is
 *                                 written.
 *   VIEWS                         the reader does not copy: it announces a view (a store,
 *                                 buffered), fences, checks the tag once, loads the mark, and reads
 *                                 when it pleases. The owner has a full fence after the
 *                                 invalidation, and goes on when it finds no view announced.
 *
 * Wrong variants:
 *   WRONG_NO_SECOND_CHECK         the tag is not loaded again after the copy.
 *   WRONG_NOT_INVALIDATED         the old tag stays until the new one replaces it.
 *   WRONG_INVALIDATION_UNORDERED  no fence between the invalidation and the stores after it (fails
 *                                 under PSO; TSO keeps the order by itself).
 *   WRONG_INVALIDATION_RELEASED   the invalidation is a release store and no fence follows: release
 *                                 orders what is before it, not what is after (fails under PSO).
 *   WRONG_TAG_NOT_RELEASED        the new tag is a plain store (fails under PSO).
 *   WRONG_MARK_NOT_RELEASED       the mark is a plain store (fails under PSO with EARLY_TAG;
 *                                 otherwise the release of the tag that follows covers for it).
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

#define CAPACITY 7

byte memory[5];

byte where[CAPACITY]; /* the owner's stores that are not yet in memory, oldest first */
byte value[CAPACITY];
bool isRelease[CAPACITY];
byte pendingCount;

chan announcing = [2] of { byte }; /* the reader's stores to VIEW */

#ifdef WRONG_NO_USE_NUMBER
#define NAME(life) 1
#else
#define NAME(life) life
#endif

#define RELEASE 1
#define PLAIN 0

#ifdef WRONG_TAG_NOT_RELEASED
#define TAG_ORDER PLAIN
#else
#define TAG_ORDER RELEASE
#endif

#ifdef WRONG_MARK_NOT_RELEASED
#define MARK_ORDER PLAIN
#else
#define MARK_ORDER RELEASE
#endif

/* TSO keeps stores apart without a release fence, and it costs nothing there. */
#ifdef PSO
#define RELEASE_FENCE pendingCount == 0
#else
#define RELEASE_FENCE true
#endif

proctype buffer()
{
    byte pick, other;
    bool mayLeave;
end:
    do
    :: atomic {
        pendingCount > 0 ->
        pick = 0;
#ifdef PSO
        do
        :: pick + 1 < pendingCount -> pick++
        :: break
        od;
#endif
        mayLeave = pick == 0 || !isRelease[pick];
        other = 0;
        do
        :: other < pick -> mayLeave = mayLeave && where[other] != where[pick]; other++
        :: else -> break
        od;
        if
        :: mayLeave ->
            memory[where[pick]] = value[pick];
            pendingCount--;
            do
            :: pick < pendingCount ->
                where[pick] = where[pick + 1];
                value[pick] = value[pick + 1];
                isRelease[pick] = isRelease[pick + 1];
                pick++
            :: else -> break
            od;
            where[pick] = 0;
            value[pick] = 0;
            isRelease[pick] = 0
        :: else
        fi;
        pick = 0;
        other = 0;
        mayLeave = false
       }
    :: atomic { announcing?other -> memory[VIEW] = other; other = 0 }
    od
}

inline store(location, content, order)
{
    atomic {
        pendingCount < CAPACITY ->
        where[pendingCount] = location;
        value[pendingCount] = content;
        isRelease[pendingCount] = order;
        pendingCount++
    }
}

inline invalidate()
{
#ifdef WRONG_INVALIDATION_RELEASED
    store(TAG, 0, RELEASE);
#else
    store(TAG, 0, PLAIN);
#endif
#ifdef VIEWS
    /* This fence also orders the load after it, so it has to be a full one. */
#ifndef WRONG_NO_OWNER_FENCE
    pendingCount == 0;
#endif
    memory[VIEW] == 0;
#elif !defined(WRONG_INVALIDATION_RELEASED) && !defined(WRONG_INVALIDATION_UNORDERED)
    RELEASE_FENCE;
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
        store(MARK, 0, PLAIN);
#endif
#ifdef EARLY_TAG
        store(TAG, NAME(life), TAG_ORDER);
        store(FIRST, life, PLAIN);
        store(MARK, 1, MARK_ORDER);
        store(SECOND, life, PLAIN);
        store(MARK, 2, MARK_ORDER);
#else
        store(FIRST, life, PLAIN);
        store(SECOND, life, PLAIN);
        store(MARK, 2, MARK_ORDER);
        store(TAG, NAME(life), TAG_ORDER);
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
