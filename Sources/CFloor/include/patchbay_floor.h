// What the load tool measures against: the least that shared memory can cost. One writer, some
// readers in processes of their own, plain C, no broker and no handling of a crash: a peer that dies
// leaves the others waiting until their parent ends them.
//
// Regions are anonymous memory files that are reserved before use, as the broker reserves its own,
// so the first touch costs both sides the same. A region is handed on as a descriptor.
//
//   ring region                               mail region (ping-pong, one way)
//   0     head: capacity, readers             0      box A: count, waiting, messages
//   64    published position                  BOX    box B: the same, the other way
//   128   waiting flag, futex word
//   192   a position per reader, 64 B apart
//   4096  data, wraps at the capacity
//
// Functions return 0 (or a descriptor), or -errno.

#ifndef PATCHBAY_FLOOR_H
#define PATCHBAY_FLOOR_H

#include <stddef.h>
#include <stdint.h>

enum { PF_READER_LIMIT = 32, PF_MESSAGE_BYTES = 64 };

// What a reader does with the bytes.
enum {
  PF_COPY = 0,  // copies them into a private buffer
  PF_SUM = 1,   // copies them and adds them up
  PF_VIEW = 2,  // adds them up where they are
};

// CLOCK_MONOTONIC in nanoseconds.
int64_t pf_now_ns(void);
// Ends this process when its parent ends.
int pf_die_with_parent(void);

// An anonymous region of this many bytes, reserved; its descriptor, which children inherit only
// when it is handed to them.
int pf_region_create(uint64_t byte_count);
void *pf_region_map(int descriptor, uint64_t byte_count);
int pf_region_unmap(void *region, uint64_t byte_count);

// Adds up bytes in words of eight; a rest shorter than a word counts byte by byte.
uint64_t pf_sum(const void *bytes, size_t byte_count);
// Where bytes first differ from the expected ones; -1 when they are the same.
int64_t pf_mismatch(const void *bytes, const void *expected, size_t byte_count);
// Copies a buffer over another so many times; nanoseconds in all.
int64_t pf_memcpy_ns(void *target, const void *source, size_t byte_count, int count);

// Content as a function of the position: byte p is source[p % period]. The source has `period`
// bytes and then as many again from its start as the longest piece has.
struct pf_content {
  const uint8_t *source;
  uint64_t period;
};

// How one side of a ring works through the stream.
struct pf_work {
  uint64_t total;
  uint64_t piece;   // bytes per write, or the most per read
  uint64_t batch;   // writes that are published together; 0 and 1: each by itself
  int spins;        // waits by spinning instead of sleeping
};

struct pf_outcome {
  int64_t first_ns;  // before the first byte
  int64_t last_ns;   // after the last byte
  uint64_t sum;
  int64_t mismatch;  // first wrong position, -1: none
};

uint64_t pf_ring_region_bytes(uint64_t capacity);
int pf_ring_init(void *region, uint64_t capacity, uint32_t reader_count);
// Publishes the whole stream, each piece with one copy, each batch with one release store. Waits for
// the slowest reader where the ring wraps.
void pf_ring_write(
    void *region, const struct pf_content *content, const struct pf_work *work,
    struct pf_outcome *outcome);
// Reads the whole stream. `buffer` has room for one piece. Checks every byte when asked to.
void pf_ring_read(
    void *region, uint32_t reader, void *buffer, int consume, int verifies,
    const struct pf_content *content, const struct pf_work *work, struct pf_outcome *outcome);

// Two boxes of 64-byte messages. Samples are nanoseconds per message.
uint64_t pf_mail_region_bytes(void);
// Sends a message and waits for its answer, `count` times.
void pf_mail_ping(void *region, int64_t *samples, uint32_t count, int spins);
// Answers each message.
void pf_mail_pong(void *region, uint32_t count, int spins);
// Sends a message with the time in it every `gap_ns`.
void pf_mail_send(void *region, uint32_t count, int64_t gap_ns);
// Takes messages and notes how old they are.
void pf_mail_receive(void *region, int64_t *samples, uint32_t count, int spins);

#endif
