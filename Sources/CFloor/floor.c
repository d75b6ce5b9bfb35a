// The floor itself. Waiting is the naive way: raise a flag, look again, sleep on a word; whoever
// publishes looks at the flag and wakes. Copies are memcpy. Everything is bounded by the work it was
// given, and a sleep by a tenth of a second, so a lost wake-up shows as a bad figure and not as a
// hang.

#define _GNU_SOURCE
#include "include/patchbay_floor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 64, HEADER = 4096, BOX_MESSAGES = 1024 };

// A word to sleep on and the flag of a sleeper. Readers raise the flag; the writer clears it.
struct bell {
  uint32_t waiting;
  uint32_t seq;
  uint8_t pad[LINE - 8];
};

struct line_of_position {
  uint64_t position;
  uint8_t pad[LINE - 8];
};

struct ring {
  uint64_t capacity;
  uint32_t reader_count;
  uint8_t pad[LINE - 12];
  struct line_of_position published;  // written by the writer only
  struct bell data;                   // readers wait for bytes
  struct bell room;                   // the writer waits for readers
  struct line_of_position readers[PF_READER_LIMIT];
};

_Static_assert(sizeof(struct ring) <= HEADER, "the head of a ring fits its page");

struct box {
  uint64_t count;
  uint8_t pad[LINE - 8];
  struct bell bell;
  uint8_t messages[BOX_MESSAGES][PF_MESSAGE_BYTES];
};

struct mail {
  struct box there;
  struct box back;
};

int64_t pf_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int pf_die_with_parent(void) {
  return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 ? 0 : -errno;
}

int pf_region_create(uint64_t byte_count) {
  int descriptor = memfd_create("patchbay-load-floor", MFD_CLOEXEC);
  if (descriptor < 0) return -errno;
  if (ftruncate(descriptor, (off_t)byte_count) == 0 &&
      fallocate(descriptor, 0, 0, (off_t)byte_count) == 0)
    return descriptor;
  int number = errno;
  close(descriptor);
  return -number;
}

void *pf_region_map(int descriptor, uint64_t byte_count) {
  void *region = mmap(NULL, byte_count, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  return region == MAP_FAILED ? NULL : region;
}

int pf_region_unmap(void *region, uint64_t byte_count) {
  return munmap(region, byte_count) == 0 ? 0 : -errno;
}

uint64_t pf_sum(const void *bytes, size_t byte_count) {
  const uint8_t *at = bytes;
  uint64_t sum = 0;
  size_t whole = byte_count / 8;
  for (size_t i = 0; i < whole; i++) {
    uint64_t word;
    memcpy(&word, at + 8 * i, 8);
    sum += word;
  }
  for (size_t i = 8 * whole; i < byte_count; i++) sum += at[i];
  return sum;
}

int64_t pf_mismatch(const void *bytes, const void *expected, size_t byte_count) {
  const uint8_t *left = bytes, *right = expected;
  if (memcmp(left, right, byte_count) == 0) return -1;
  size_t at = 0;
  while (left[at] == right[at]) at++;
  return (int64_t)at;
}

int64_t pf_memcpy_ns(void *target, const void *source, size_t byte_count, int count) {
  int64_t start = pf_now_ns();
  for (int i = 0; i < count; i++) {
    memcpy(target, source, byte_count);
    // Keeps the copy: without it the compiler may see that nobody reads the target.
    __asm__ volatile("" : : "r"(target) : "memory");
  }
  return pf_now_ns() - start;
}

// MARK: Waiting

static void pause_core(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb" ::: "memory");
#endif
}

static uint64_t load(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }

static void store(uint64_t *word, uint64_t value) {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static void ring_bell(struct bell *bell) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (__atomic_load_n(&bell->waiting, __ATOMIC_RELAXED) == 0) return;
  __atomic_store_n(&bell->waiting, 0, __ATOMIC_RELAXED);
  __atomic_fetch_add(&bell->seq, 1, __ATOMIC_RELEASE);
  syscall(SYS_futex, &bell->seq, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

// Waits until *word is at least `wanted`; what it was then.
static uint64_t wait_for(const uint64_t *word, uint64_t wanted, struct bell *bell, int spins) {
  uint64_t seen;
  while ((seen = load(word)) < wanted) {
    if (spins) {
      pause_core();
      continue;
    }
    uint32_t seq = __atomic_load_n(&bell->seq, __ATOMIC_ACQUIRE);
    __atomic_store_n(&bell->waiting, 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if ((seen = load(word)) >= wanted) break;
    struct timespec bound = {0, 100000000};
    syscall(SYS_futex, &bell->seq, FUTEX_WAIT, seq, &bound, NULL, 0);
  }
  return seen;
}

// MARK: Ring

uint64_t pf_ring_region_bytes(uint64_t capacity) { return HEADER + capacity; }

int pf_ring_init(void *region, uint64_t capacity, uint32_t reader_count) {
  if (reader_count > PF_READER_LIMIT || capacity == 0) return -EINVAL;
  struct ring *ring = region;
  ring->capacity = capacity;
  ring->reader_count = reader_count;
  return 0;
}

static uint8_t *data_of(struct ring *ring) { return (uint8_t *)ring + HEADER; }

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

static int has_room(const struct ring *ring, uint64_t end) {
  if (end <= ring->capacity) return 1;
  for (uint32_t i = 0; i < ring->reader_count; i++)
    if (load(&ring->readers[i].position) < end - ring->capacity) return 0;
  return 1;
}

static void wait_for_room(struct ring *ring, uint64_t end, int spins) {
  if (end <= ring->capacity) return;
  for (uint32_t i = 0; i < ring->reader_count; i++)
    wait_for(&ring->readers[i].position, end - ring->capacity, &ring->room, spins);
}

static void publish(struct ring *ring, uint64_t position) {
  store(&ring->published.position, position);
  ring_bell(&ring->data);
}

void pf_ring_write(
    void *region, const struct pf_content *content, const struct pf_work *work,
    struct pf_outcome *outcome) {
  struct ring *ring = region;
  outcome->first_ns = pf_now_ns();
  uint64_t at = 0, published = 0, written = 0;
  while (at < work->total) {
    uint64_t place = at % ring->capacity;
    uint64_t count = least(least(work->piece, work->total - at), ring->capacity - place);
    int is_full = !has_room(ring, at + count);
    if (published < at && (is_full || written >= work->batch)) {
      publish(ring, published = at);
      written = 0;
    }
    if (is_full) wait_for_room(ring, at + count, work->spins);
    memcpy(data_of(ring) + place, content->source + at % content->period, count);
    at += count;
    written++;
  }
  publish(ring, at);
  outcome->last_ns = pf_now_ns();
}

void pf_ring_read(
    void *region, uint32_t reader, void *buffer, int consume, int verifies,
    const struct pf_content *content, const struct pf_work *work, struct pf_outcome *outcome) {
  struct ring *ring = region;
  outcome->sum = 0;
  outcome->mismatch = -1;
  uint64_t at = 0;
  while (at < work->total) {
    uint64_t end = wait_for(&ring->published.position, at + 1, &ring->data, work->spins);
    uint64_t place = at % ring->capacity;
    uint64_t count = least(least(work->piece, end - at), ring->capacity - place);
    const uint8_t *bytes = data_of(ring) + place;
    if (consume != PF_VIEW) bytes = memcpy(buffer, bytes, count);
    if (consume != PF_COPY) outcome->sum += pf_sum(bytes, count);
    __asm__ volatile("" : : "r"(bytes) : "memory");
    if (verifies && outcome->mismatch < 0) {
      int64_t wrong = pf_mismatch(bytes, content->source + at % content->period, count);
      if (wrong >= 0) outcome->mismatch = (int64_t)at + wrong;
    }
    at += count;
    store(&ring->readers[reader].position, at);
    if (work->total > ring->capacity) ring_bell(&ring->room);
  }
  outcome->last_ns = pf_now_ns();
}

// MARK: Mail

uint64_t pf_mail_region_bytes(void) { return sizeof(struct mail); }

static void put(struct box *box, uint64_t number, const uint8_t *message) {
  memcpy(box->messages[number % BOX_MESSAGES], message, PF_MESSAGE_BYTES);
  store(&box->count, number + 1);
  ring_bell(&box->bell);
}

static void take(struct box *box, uint64_t number, uint8_t *message, int spins) {
  wait_for(&box->count, number + 1, &box->bell, spins);
  memcpy(message, box->messages[number % BOX_MESSAGES], PF_MESSAGE_BYTES);
}

void pf_mail_ping(void *region, int64_t *samples, uint32_t count, int spins) {
  struct mail *mail = region;
  uint8_t message[PF_MESSAGE_BYTES] = {1};
  for (uint32_t i = 0; i < count; i++) {
    int64_t start = pf_now_ns();
    put(&mail->there, i, message);
    take(&mail->back, i, message, spins);
    samples[i] = pf_now_ns() - start;
  }
}

void pf_mail_pong(void *region, uint32_t count, int spins) {
  struct mail *mail = region;
  uint8_t message[PF_MESSAGE_BYTES];
  for (uint32_t i = 0; i < count; i++) {
    take(&mail->there, i, message, spins);
    put(&mail->back, i, message);
  }
}

void pf_mail_send(void *region, uint32_t count, int64_t gap_ns) {
  struct mail *mail = region;
  uint8_t message[PF_MESSAGE_BYTES] = {1};
  for (uint32_t i = 0; i < count; i++) {
    struct timespec gap = {gap_ns / 1000000000, gap_ns % 1000000000};
    nanosleep(&gap, NULL);
    int64_t now = pf_now_ns();
    memcpy(message, &now, sizeof now);
    put(&mail->there, i, message);
  }
}

void pf_mail_receive(void *region, int64_t *samples, uint32_t count, int spins) {
  struct mail *mail = region;
  uint8_t message[PF_MESSAGE_BYTES];
  for (uint32_t i = 0; i < count; i++) {
    take(&mail->there, i, message, spins);
    int64_t sent;
    memcpy(&sent, message, sizeof sent);
    samples[i] = pf_now_ns() - sent;
  }
}
