/*
 * The frontier of the written map reaches the end of the contiguous coverage, and never passes it.
 *
 * Modelled: a map of five units, the frontier, and three writers that mark disjoint ranges: one
 * marks two ranges in either order, one a range in the gap between, one a range across two words,
 * so with two marks. After each range a writer fences, loads the frontier, looks how far coverage
 * goes on from there, raises the frontier to that (never lowering it), fences, and looks again
 * until it finds nothing more. At the end the frontier must equal the contiguous coverage; at every
 * step it must not move back and must not pass a unit that is not covered in memory.
 *
 * Store buffers: every store and read-modify-write of a writer enters its own FIFO (`pending`) and
 * takes effect in memory when the buffer's process takes it out, at any later time; the writer's
 * own loads see what it has pending. For a plain store this is TSO. For the fetch-or of a mark and
 * the raise of the frontier it stands for arm64, where a read-modify-write with release order keeps
 * behind what precedes it, but does not hold back the loads that follow. (Release is also what
 * makes the FIFO right: two marks of one writer do not overtake each other.) Only a fence waits for
 * an empty buffer.
 *
 * Two disciplines. By default a writer looks after every mark, wherever the frontier is. Then the
 * last writer to fence sees all marks and raises the frontier over all of them by itself, so one
 * look is enough, and a look that a dead writer did not take is made good by the next mark. With
 * ONLY_AT_FRONTIER a writer does not look when the frontier is outside the range it has just
 * marked: before the range, somebody else covers the gap and will look; beyond it, somebody has
 * seen the mark. That relies on others, and it is right only if whoever moves the frontier fences
 * and looks again.
 *
 * Configurations, which hold:
 *   ONLY_AT_FRONTIER         see above.
 *   NO_SECOND_LOOK           does not look again after moving the frontier. Wrong with
 *                            ONLY_AT_FRONTIER.
 *   NO_SECOND_FENCE          looks again, without a fence before. Wrong with ONLY_AT_FRONTIER.
 *   STRONG_RMW               a read-modify-write is a full fence, as on x86. With it the variants
 *                            that only drop a fence hold, so no test run on x86 can find them.
 *   DEATH                    one writer may be killed between any two steps (its buffer still
 *                            drains); whoever clears up after it takes one look on its behalf. The
 *                            last unit is left out, to keep the search short.
 *
 * Wrong variants:
 *   WRONG_NO_FENCE           no fence between the mark and the loads of the frontier and the map.
 *   WRONG_PLAIN_STORE        stores the frontier instead of raising it: it can move back.
 *   WRONG_NO_LOOK_FOR_DEAD   with DEATH: nobody looks for the dead, and the frontier may stay
 *                            behind.
 */

#ifdef DEATH
#define UNITS 4
#else
#define UNITS 5
#endif
#define WRITERS 3

#define MARK 0
#define RAISE 1
#define STORE 2

bool marked[UNITS];
byte frontier;
byte finished;
bool killed;

chan pending[WRITERS] = [3] of { byte, byte }; /* a writer's effects: which, on what */

#ifdef WRONG_PLAIN_STORE
#define MOVE STORE
#else
#define MOVE RAISE
#endif

#define DRAINED(owner) empty(pending[owner])

inline moveTo(value)
{
    assert(value >= frontier);
    unit = frontier;
    do
    :: unit < value -> assert(marked[unit]); unit++
    :: else -> break
    od;
    unit = 0;
    frontier = value
}

proctype buffer(byte owner)
{
    byte value, unit;
end:
    do
    :: atomic { pending[owner]?MARK, value -> marked[value] = true; value = 0 }
    :: atomic {
        pending[owner]?RAISE, value ->
        if
        :: value > frontier -> moveTo(value)
        :: else
        fi;
        value = 0
       }
    :: atomic { pending[owner]?STORE, value -> moveTo(value); value = 0 }
    od
}

inline effect(what, value)
{
    pending[me]!what, value;
#ifdef STRONG_RMW
    if
    :: what == STORE
    :: what != STORE -> DRAINED(me)
    fi
#endif
}

/* Loads the frontier. What we have raised it to may still be pending: the buffer forwards it. */
inline loadFrontier()
{
    atomic {
        if
        :: pending[me]??[MOVE, eval(raised)] && (MOVE == STORE || raised > frontier) ->
            from = raised
        :: else -> from = frontier
        fi
    }
}

inline advance()
{
    do
    :: upTo = from;
        do
        :: atomic {
            upTo < UNITS && (marked[upTo] || pending[me]??[MARK, eval(upTo)]) -> upTo++
           }
        :: else -> break
        od;
        if
        :: upTo == from -> break
        :: else
        fi;
        raised = upTo;
        effect(MOVE, upTo);
#ifdef NO_SECOND_LOOK
        break;
#endif
#ifndef NO_SECOND_FENCE
        atomic { DRAINED(me) -> raised = 0 };
#endif
        loadFrontier()
    od;
    upTo = 0
}

inline cover(start, limit)
{
    unit = start;
    do
    :: unit < limit -> effect(MARK, unit); unit++
    :: else -> break
    od;
    unit = 0;
#ifndef WRONG_NO_FENCE
    atomic { DRAINED(me) -> raised = 0 };
#endif
    loadFrontier();
#ifdef ONLY_AT_FRONTIER
    if
    :: start <= from && from < limit -> advance()
    :: else
    fi;
#else
    advance();
#endif
    from = 0
}

proctype writer(byte me)
{
    byte unit, from, upTo, raised;
    {
        if
        :: me == 0 -> cover(0, 1); cover(2, 3)
        :: me == 0 -> cover(2, 3); cover(0, 1)
        :: me == 1 -> cover(1, 2)
        :: me == 2 -> cover(3, UNITS)
        fi;
        raised = 0
    } unless {
        /* The escape comes before any further step, so a killed writer does nothing more. */
        me == 1 && killed
    };
    DRAINED(me);
#if defined(DEATH) && !defined(WRONG_NO_LOOK_FOR_DEAD)
    if
    :: me == 1 && killed ->
        raised = 0;
        loadFrontier();
        advance();
        DRAINED(me)
    :: else
    fi;
#endif
    finished++
}

#ifdef DEATH
proctype killer()
{
    killed = true
}
#endif

init {
    byte contiguous;
    atomic {
        run buffer(0);
        run buffer(1);
        run buffer(2);
#ifdef DEATH
        run killer();
#endif
        run writer(0);
        run writer(1);
        run writer(2)
    };
    finished == WRITERS ->
    d_step {
        do
        :: contiguous < UNITS && marked[contiguous] -> contiguous++
        :: else -> break
        od;
        assert(frontier == contiguous);
        assert(killed || contiguous == UNITS)
    }
}
