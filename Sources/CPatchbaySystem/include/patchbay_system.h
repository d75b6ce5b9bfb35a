// What Swift cannot call by itself: variadic system calls, control messages, constants behind
// feature macros. Each function is one system call or one fixed sequence, returns -errno on failure
// and touches no state of its own. Feature macros stay in the .c file.

#ifndef PATCHBAY_SYSTEM_H
#define PATCHBAY_SYSTEM_H

#include <stddef.h>
#include <stdint.h>

// Sleeps while *word == expected, until woken with a mask that shares a bit, or until the absolute
// CLOCK_MONOTONIC time. 0: woken. -EAGAIN, -ETIMEDOUT, -EINTR: as named. Works on read-only maps.
int pb_futex_wait(const uint32_t *word, uint32_t expected, uint32_t mask, int64_t deadline_ns);
// Wakes every waiter whose mask shares a bit with this one; how many.
int pb_futex_wake(uint32_t *word, uint32_t mask);

// One word to sleep on, and what it must still hold.
struct pb_futex_word {
  const uint32_t *word;
  uint32_t expected;
};
#define PB_FUTEX_WORD_LIMIT 128
// Sleeps while all of 1 to PB_FUTEX_WORD_LIMIT words hold what is expected, until one is woken, with
// any mask, or until the absolute CLOCK_MONOTONIC time. The woken word's index. -EAGAIN, -ETIMEDOUT,
// -EINTR: as named; -ENOSYS before Linux 5.16. No words at all: -EINVAL, or -ENOSYS as before.
int pb_futex_wait_any(const struct pb_futex_word *words, int count, int64_t deadline_ns);

// Tells the core that a loop spins.
static inline void pb_pause(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb" ::: "memory");
#endif
}

// Asks for the cache line of an address, to be written soon. A hint: any address is good.
static inline void pb_prefetch_write(const void *address) {
#if defined(__x86_64__)
  // Before 2014 some cores of Intel take it for a no-operation, as was agreed.
  __asm__ volatile("prefetchw %0" : : "m"(*(const char *)address));
#else
  __builtin_prefetch(address, 1, 3);
#endif
}

// CLOCK_MONOTONIC and CLOCK_REALTIME in nanoseconds.
int64_t pb_monotonic_ns(void);
int64_t pb_realtime_ns(void);

// An anonymous object of this size, reserved and mode 0600; sealed against change of size when asked.
int pb_memfd(const char *name, int64_t byte_count, int sealed);
// An anonymous object of no size yet, that only its maker can write; and the end of all writing to it:
// neither its bytes nor its size change from then on, whoever has it.
int pb_memfd_empty(const char *name);
int pb_seal_content(int memfd);

// What tells one content of a file from another, as far as its file system says.
struct pb_file_facts {
  uint64_t device;
  uint64_t inode;
  uint64_t byte_count;
  // Nanoseconds since 1970.
  uint64_t modified_ns;
  uint64_t changed_ns;
  // How many names it has; 0: it goes with its last descriptor.
  uint32_t name_count;
  int is_regular;
  // Whether the descriptor can read, cannot write, and reads at any offset.
  int reads_only;
};
// Looks at a file. waits = 0: takes what is known on this machine and never waits for another one, or
// for a process that serves the file system.
int pb_look_at_file(int file, int waits, struct pb_file_facts *facts);

// A named object /dev/shm/NAME, created anew, reserved. The inode goes to *inode.
int pb_shm_create(const char *name, uint32_t mode, int64_t byte_count, uint64_t *inode);
// Opens one that must be a regular file of this owner, size and inode; -ESTALE when it is not.
int pb_shm_open(const char *name, int read_write, uint32_t uid, int64_t byte_count, uint64_t inode);
int pb_shm_unlink(const char *name);
// Gives all memory of an object back, whoever has it mapped; its size stays.
int pb_give_back(int descriptor);
// Where at or behind an offset the first hole is, at the latest the end of the object; -ENXIO when
// the offset is at its end or behind. Pages that were reserved and never written are a hole.
int64_t pb_first_hole(int object, int64_t offset);
// Where at or behind an offset the first byte is that is not in a hole; -ENXIO when there is none.
int64_t pb_first_data(int object, int64_t offset);
// Gives the memory or disk space of a range back; the file's size stays. -EOPNOTSUPP: it cannot.
int pb_punch_hole(int file, int64_t offset, int64_t byte_count);

// SOCK_SEQPACKET over AF_UNIX, close-on-exec; no socket blocks. Connecting waits while the
// listener's queue is full; -EAGAIN when the moment came first. The mode is the socket's. Nobody who
// connects to it can send descriptors, until pb_take_descriptors lets them.
int pb_listen(const char *path, int backlog, uint32_t mode);
int pb_connect(const char *path, int64_t deadline_ns);
// As pb_connect without waiting: -EAGAIN while the listener's queue is full.
int pb_connect_now(const char *path);
// Makes a listener that this process was born with like one of pb_listen, and tells its path, which
// has at most capacity - 1 bytes. -EPROTOTYPE: it is no listening socket of that kind with a path.
int pb_adopt_listener(int listener, char *path, size_t capacity);
int pb_accept(int listener);
// Whether packets with descriptors can be sent to a socket: 0, who tries gets EPERM. Set on a
// listener it holds for each connection that is made from then on, from its first packet on. From
// Linux 6.16; before, -ENOPROTOOPT, and they can.
int pb_take_descriptors(int socket, int takes);
int pb_socket_pair(int *first, int *second);
// One packet. -EAGAIN when the peer's queue is full (never blocks, never raises SIGPIPE).
int64_t pb_send(int socket, const void *bytes, size_t byte_count, const int *descriptors, int count);
// One packet; 0: the peer hung up. The true length even when it exceeds the buffer, so that the
// caller can refuse it. When not all descriptors could be taken, for the capacity or for want of
// numbers, none is given.
int64_t pb_receive(int socket, void *bytes, size_t capacity, int *descriptors, int *count);
// The beginning of the next packet, which stays where it is: the length of all of it.
int64_t pb_peek(int socket, void *bytes, size_t capacity);
// One packet, and with takes_one at most one descriptor of those that came along: no more are ever
// installed in this process, and none without takes_one. *descriptor: -1 for none. *is_short: there
// was one more than that, or no number left for it here.
int64_t pb_receive_guarded(int socket, void *bytes, size_t capacity, int takes_one,
                           int *descriptor, int *is_short);
int pb_peer(int socket, int32_t *pid, uint32_t *uid, uint32_t *gid);
// The supplementary groups of the process that connected: how many. -ERANGE: more than fit.
int pb_peer_groups(int socket, uint32_t *groups, int capacity);
// A pidfd of the process that connected; by SO_PEERPIDFD where the kernel has it.
int pb_peer_pidfd(int socket, int32_t pid);
// A pidfd of a process by its number: readable once the process has ended.
int pb_pidfd(int32_t pid);
// Waits until the socket can be read (or is hung up), or the time. 1, 0 on time-out, -errno.
int pb_poll_readable(int descriptor, int64_t deadline_ns);
int pb_poll_writable(int descriptor, int64_t deadline_ns);
// One of several descriptors to wait for: laid out as struct pollfd.
struct pb_poll_entry {
  int descriptor;
  short wanted;
  short ready;
};
#define PB_POLL_READABLE 1
#define PB_POLL_WRITABLE 4
// Waits until a descriptor has what is wanted of it, has failed, or the time; how many have.
int pb_poll(struct pb_poll_entry *entries, int count, int64_t deadline_ns);
// Start time of a process in clock ticks since boot, 0 when it is gone.
uint64_t pb_process_start_time(int32_t pid);

int pb_epoll_create(void);
int pb_epoll_add(int epoll, int descriptor, uint64_t tag);
int pb_epoll_modify(int epoll, int descriptor, uint64_t tag, int writable);
int pb_epoll_remove(int epoll, int descriptor);
// Up to capacity ready descriptors: tags and whether readable (1), writable (2), hung up (4).
int pb_epoll_wait(int epoll, uint64_t *tags, uint32_t *flags, int capacity, int timeout_ms);
// A pipe that children do not inherit: two descriptors, first the end to read.
int pb_pipe(int *ends);
int pb_eventfd(void);
int pb_eventfd_signal(int descriptor);
int pb_eventfd_drain(int descriptor);

// One datagram to a socket path; @ at its beginning stands for the abstract name space. Never waits.
int pb_send_datagram(const char *path, const char *text);

// An exclusive, non-blocking flock on the file, created 0600 without following a symlink.
int pb_lock_file(const char *path);
// Raises the soft limit of descriptors to the hard one; the limit now in force.
int64_t pb_raise_descriptor_limit(void);
// Free bytes of the file system that holds shared memory.
int64_t pb_shm_free_bytes(void);
// Gives the pages of a mapped range their memory in one call, as writing to each would. The range is
// whole pages. -EINVAL where the kernel cannot (before 5.14): then the first write does it.
int pb_populate_for_writing(void *address, size_t byte_count);
// Keeps the range out of children after a fork.
int pb_exclude_from_fork(void *address, size_t byte_count);
// Maps what a shared mapping of this size shows a second time, elsewhere.
int pb_map_again(void *address, size_t byte_count, void **again);

// What tools that list threads show for this one: at most 15 bytes. Returns 0 or a negative error number.
int pb_name_thread(unsigned long thread, const char *name);

#endif
