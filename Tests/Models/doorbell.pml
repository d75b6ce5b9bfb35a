/*
 * The doorbell: no wake-up is lost.
 *
 * Modelled: one bell (`waiting`, a mask of classes with sleepers; `seq`, the futex word), three
 * segments with a subscriber each, and two publishers, of which one covers two segments in turn.
 * Segment s belongs to class s mod 2, so segments 0 and 2 share a class: a publisher of one then
 * wakes and disarms the subscriber of the other, which is where most wrong protocols break. Who
 * covers which segment, and in which order, is chosen freely at the start.
 *
 * Store buffers: a publisher's mark is a plain store, so it enters the publisher's own FIFO
 * (`pending`) and reaches memory when the buffer's process takes it out, at any later time. This is
 * TSO, the memory model of x86. A fence, and every atomic read-modify-write, waits until the own
 * buffer is empty. No process here loads what it may itself have pending, so there is no
 * forwarding. The bytes of a segment are left out: they precede the mark in the same FIFO (see
 * tag.pml).
 *
 * The futex is the kernel's: a wait compares the word IN MEMORY and enqueues in one step (the
 * kernel does both under a lock, after a full barrier), or returns at once; a wake takes out of the
 * queue whoever waits with a mask that meets the given one. Waits are not bounded and never end by
 * chance, so a lost wake-up is a process that can never go on: an invalid end state. Every segment
 * is covered or declared lost in the end, so every subscriber has to end.
 *
 * Configurations, which hold:
 *   SINGLE_CLASS              all segments in one class.
 *   SEALED                    the second publisher is the broker instead, which seals the blob: a
 *                             change of state that ends every wait and rings all classes.
 *   MATCH_ANY                 subscriber 1 waits as futex_waitv does: any wake ends its wait.
 *   DEATH                     the second publisher may be killed between any two steps; the broker
 *                             then declares its segment lost and rings without asking the mask.
 *                             Only one choice of segments, to keep the search short: the killed
 *                             publisher and the first segment of the other share a class.
 *   WEAK_RMW                  a read-modify-write does not hold back the loads after it, as on
 *                             arm64 with a load-exclusive/store-exclusive pair: the subscriber's
 *                             fetch-or enters a buffer too. (The publisher's keep their order by
 *                             release.)
 *   NO_SUBSCRIBER_FENCE       no fence between fetch-or and re-check. Where a read-modify-write is
 *                             a full fence (x86) this changes nothing; with WEAK_RMW it is wrong.
 *
 * Wrong variants, which lose a wake-up:
 *   WRONG_SINGLE_FLAG         one flag instead of a mask; who clears it wakes only its own class.
 *                             With SINGLE_CLASS there is nothing to confuse, and it holds.
 *   WRONG_MASK_AS_FUTEX_WORD  no seq: the subscriber sleeps on the mask it saw. The bit may have
 *                             been cleared and set again by another subscriber in between.
 *   WRONG_NO_FENCE            the mark may reach memory after the load of `waiting`.
 *   WRONG_SEQ_AFTER_ARMING    seq is loaded after fetch-or and re-check: a ring between is missed.
 *   WRONG_SEQ_BETWEEN         seq is loaded between fetch-or and re-check: a ring for another
 *                             segment of the class has disarmed us and is not noticed.
 *   WRONG_NO_RECHECK          the mark may have come before the fetch-or.
 *   WRONG_CLEAR_AFTER_SEQ     a subscriber that saw the new seq is disarmed after it armed itself.
 *                             A bump of seq without release does the same on arm64.
 *   WRONG_CLEAR_AFTER_WAKE    the same, later.
 *   WRONG_WAKE_BEFORE_SEQ     a subscriber falls asleep on the old seq after the wake.
 *   WRONG_CLEAR_ALL           clears the bits of classes that it does not wake.
 *   WRONG_WAKE_ONE            wakes one waiter of the class, which may be the wrong one.
 *   WRONG_PLAIN_SEQ           seq is raised by load and store: two publishers can set it back.
 *   WRONG_NARROW_SEQ          seq wraps after two rings, as 32 bits do after 2^32: it looks
 *                             unchanged.
 *   WRONG_BROKER_ASKS_MASK    with DEATH: the broker rings only the classes it finds in `waiting`.
 *                             A publisher killed between clear and wake has left no bit behind.
 */

#define SUBSCRIBERS 3
#define SEAL 3 /* an index of `truth` beyond the segments: the blob is sealed */
#define SEQ 4  /* what a buffered store goes to when it is not an index of `truth` */
#define ALL 3  /* the mask of both classes */

#ifdef SINGLE_CLASS
#define CLASS(segment) 1
#else
#define CLASS(segment) (1 << (segment % 2))
#endif

#ifdef WRONG_SINGLE_FLAG
#define BIT(segment) 1
#else
#define BIT(segment) CLASS(segment)
#endif

#ifdef WRONG_MASK_AS_FUTEX_WORD
#define FUTEX_WORD waiting
#else
#define FUTEX_WORD seq
#endif

#ifdef WRONG_NARROW_SEQ
#define NEXT(value) ((value + 1) % 2)
#else
#define NEXT(value) (value + 1)
#endif

byte waiting;
byte seq;
bool truth[4];            /* covered segments, and the seal */
byte queue[SUBSCRIBERS];  /* the mask a subscriber sleeps with; 0 when it is not queued */
bool killed;

chan pending[2] = [3] of { byte, byte }; /* a publisher's stores: where, value */
#ifdef WEAK_RMW
chan arming[SUBSCRIBERS] = [1] of { byte }; /* a subscriber's fetch-or that is not yet in memory */
#endif

#define ENDED(segment) (truth[segment] || truth[SEAL])

proctype buffer(byte owner)
{
    byte where, value;
end:
    do
    :: atomic {
        pending[owner]?where, value ->
        if
        :: where == SEQ -> seq = value
        :: else -> truth[where] = true
        fi;
        where = 0; value = 0
       }
    od
}

#ifdef WEAK_RMW
proctype armingBuffer(byte owner)
{
    byte bits;
end:
    do
    :: atomic { arming[owner]?bits -> waiting = waiting | bits; bits = 0 }
    od
}
#endif

proctype subscriber(byte me)
{
    byte expected;
    byte wakers = CLASS(me);
#ifdef MATCH_ANY
    if
    :: me == 1 -> wakers = ALL
    :: else
    fi;
#endif
again:
    /* One step: a first look that finds nothing decides nothing, for the re-check follows. */
    atomic {
        if
        :: ENDED(me) -> goto done
        :: else
        fi;
#if !defined(WRONG_SEQ_AFTER_ARMING) && !defined(WRONG_SEQ_BETWEEN)
        expected = seq
#endif
    };

#if defined(WRONG_MASK_AS_FUTEX_WORD)
    atomic { waiting = waiting | BIT(me); expected = waiting };
#elif defined(WEAK_RMW)
    arming[me]!BIT(me);
#ifndef NO_SUBSCRIBER_FENCE
    empty(arming[me]);
#endif
#else
    waiting = waiting | BIT(me);
#endif

#ifdef WRONG_SEQ_BETWEEN
    expected = seq;
#endif
#ifndef WRONG_NO_RECHECK
    if
    :: atomic { ENDED(me) -> expected = 0; goto done }
    :: else
    fi;
#endif
#ifdef WRONG_SEQ_AFTER_ARMING
    expected = seq;
#endif

#ifdef WEAK_RMW
    empty(arming[me]); /* The kernel has a full barrier before it reads the word. */
#endif
    atomic {
        if
        :: FUTEX_WORD == expected -> queue[me] = wakers; expected = 0
        :: else -> expected = 0; goto again
        fi
    };
    queue[me] == 0 -> goto again;
done:
    skip
}

inline wake(mask)
{
    d_step {
        index = 0;
        do
        :: index < SUBSCRIBERS ->
            if
            :: queue[index] & (mask) ->
                queue[index] = 0;
#ifdef WRONG_WAKE_ONE
                break
#endif
            :: else
            fi;
            index++
        :: else -> break
        od;
        index = 0
    }
}

inline clear()
{
#ifdef WRONG_CLEAR_ALL
    waiting = 0
#else
    waiting = waiting & ~hit
#endif
}

inline bump(me)
{
#ifdef WRONG_PLAIN_SEQ
    next = NEXT(seq);
    pending[me]!SEQ, next;
    next = 0;
    empty(pending[me]) /* The kernel has a full barrier before it looks for waiters. */
#else
    seq = NEXT(seq)
#endif
}

/* `bits` is what to look for in `waiting`, `classes` whom to wake; they differ only when wrong. */
inline ring(me, bits, classes)
{
    hit = waiting & (bits);
    if
    :: hit ->
        empty(pending[me]); /* The read-modify-writes below drain the buffer. */
#if defined(WRONG_MASK_AS_FUTEX_WORD)
        clear();
        wake(hit);
#elif defined(WRONG_SINGLE_FLAG)
        clear();
        bump(me);
        wake(classes);
#elif defined(WRONG_CLEAR_AFTER_SEQ)
        bump(me);
        clear();
        wake(hit);
#elif defined(WRONG_CLEAR_AFTER_WAKE)
        bump(me);
        wake(hit);
        clear();
#elif defined(WRONG_WAKE_BEFORE_SEQ)
        clear();
        wake(hit);
        bump(me);
#else
        clear();
        bump(me);
        wake(hit);
#endif
        hit = 0
    :: else
    fi
}

inline cover(me, what)
{
    pending[me]!what, 1;
#ifndef WRONG_NO_FENCE
    empty(pending[me]);
#endif
    if
    :: what == SEAL -> ring(me, ALL, ALL)
    :: else -> ring(me, BIT(what), CLASS(what))
    fi
}

proctype publisher(byte me; byte first; byte second; byte count)
{
    byte hit, index, next;
    {
        cover(me, first);
        if
        :: count == 2 -> cover(me, second)
        :: else
        fi
    } unless {
        /* The escape comes before any further step, so a killed publisher does nothing more. */
        me == 1 && killed
    }
}

#ifdef DEATH
proctype broker(byte lost)
{
    byte hit, index;
    /* One step: a publisher killed earlier is one that was slow until now. The loss is declared
       with a fence after it, and ends the wait as coverage does. */
    atomic { killed = true; truth[lost] = true };
#ifdef WRONG_BROKER_ASKS_MASK
    hit = waiting;
#else
    hit = ALL;
#endif
    if
    :: hit ->
        waiting = waiting & ~hit;
        seq = NEXT(seq);
        wake(hit)
    :: else
    fi
}
#endif

init {
    byte alone, first, second;
    atomic {
        if
        :: alone = 0; first = 2; second = 1
#ifndef DEATH
        :: alone = 0; first = 1; second = 2
        :: alone = 1; first = 0; second = 2
#endif
        fi;
        run buffer(0);
        run buffer(1);
#ifdef WEAK_RMW
        run armingBuffer(0);
        run armingBuffer(1);
        run armingBuffer(2);
#endif
        run publisher(0, first, second, 2);
#ifdef SEALED
        run publisher(1, SEAL, 0, 1);
#else
        run publisher(1, alone, 0, 1);
#endif
#ifdef DEATH
        run broker(alone);
#endif
        run subscriber(0);
        run subscriber(1);
        run subscriber(2)
    }
}
