// Everything here is Linux. A port replaces this file and the calls it serves, nothing else.

#define _GNU_SOURCE 1
#include "patchbay_system.h"

#include <pthread.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

static int closed_with(int descriptor, int error) {
  close(descriptor);
  return -error;
}

int pb_futex_wait(const uint32_t *word, uint32_t expected, uint32_t mask, int64_t deadline_ns) {
  struct timespec until = {deadline_ns / 1000000000, deadline_ns % 1000000000};
  long result = syscall(SYS_futex, word, FUTEX_WAIT_BITSET, expected, &until, NULL, mask);
  return result < 0 ? -errno : 0;
}

int pb_futex_wake(uint32_t *word, uint32_t mask) {
  long result = syscall(SYS_futex, word, FUTEX_WAKE_BITSET, 0x7fffffff, NULL, NULL, mask);
  return result < 0 ? -errno : (int)result;
}

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif
#define FUTEX_WORD_OF_32_BITS 2

// The kernel's record of a word to wait on, which older headers do not have.
struct kernel_word {
  uint64_t expected;
  uint64_t address;
  uint32_t flags;
  uint32_t reserved;
};
_Static_assert(sizeof(struct kernel_word) == 24, "the kernel reads records of 24 bytes");

int pb_futex_wait_any(const struct pb_futex_word *words, int count, int64_t deadline_ns) {
  if (count < 0 || count > PB_FUTEX_WORD_LIMIT) return -EINVAL;
  struct kernel_word list[PB_FUTEX_WORD_LIMIT];
  for (int i = 0; i < count; i++)
    list[i] = (struct kernel_word){
        words[i].expected, (uint64_t)(uintptr_t)words[i].word, FUTEX_WORD_OF_32_BITS, 0};
  struct timespec until = {deadline_ns / 1000000000, deadline_ns % 1000000000};
  long result = syscall(SYS_futex_waitv, list, (unsigned)count, 0, &until, CLOCK_MONOTONIC);
  return result < 0 ? -errno : (int)result;
}

static int64_t clock_ns(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t pb_monotonic_ns(void) { return clock_ns(CLOCK_MONOTONIC); }
int64_t pb_realtime_ns(void) { return clock_ns(CLOCK_REALTIME); }

int pb_memfd(const char *name, int64_t byte_count, int sealed) {
  int descriptor = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (descriptor < 0) return -errno;
  if (fchmod(descriptor, 0600) < 0) return closed_with(descriptor, errno);
  if (fallocate(descriptor, 0, 0, byte_count) < 0) return closed_with(descriptor, errno);
  if (sealed && fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
    return closed_with(descriptor, errno);
  return descriptor;
}

int pb_memfd_empty(const char *name) {
  int descriptor = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (descriptor < 0) return -errno;
  // The owner may read it, nobody may write or run it who opens it anew.
  if (fchmod(descriptor, 0400) < 0) return closed_with(descriptor, errno);
  return descriptor;
}

int pb_seal_content(int memfd) {
  int seals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  return fcntl(memfd, F_ADD_SEALS, seals) < 0 ? -errno : 0;
}

int pb_look_at_file(int file, int waits, struct pb_file_facts *facts) {
  struct statx found;
  int flags = AT_EMPTY_PATH | (waits ? AT_STATX_SYNC_AS_STAT : AT_STATX_DONT_SYNC);
  if (statx(file, "", flags, STATX_BASIC_STATS, &found) < 0) return -errno;
  facts->device = (uint64_t)found.stx_dev_major << 32 | found.stx_dev_minor;
  facts->inode = found.stx_ino;
  facts->byte_count = found.stx_size;
  // Wraps for moments that no clock shows: they are compared, not told.
  facts->modified_ns = (uint64_t)found.stx_mtime.tv_sec * 1000000000u + found.stx_mtime.tv_nsec;
  facts->changed_ns = (uint64_t)found.stx_ctime.tv_sec * 1000000000u + found.stx_ctime.tv_nsec;
  facts->name_count = found.stx_nlink;
  facts->is_regular = S_ISREG(found.stx_mode);
  int status = fcntl(file, F_GETFL);
  if (status < 0) return -errno;
  // With O_PATH the access mode says nothing, and there is no access.
  facts->reads_only = (status & O_ACCMODE) == O_RDONLY && !(status & (O_PATH | O_DIRECT));
  return 0;
}

int pb_shm_create(const char *name, uint32_t mode, int64_t byte_count, uint64_t *inode) {
  int descriptor = shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor < 0) return -errno;
  struct stat facts;
  int error = 0;
  if (fchmod(descriptor, mode) < 0 || fallocate(descriptor, 0, 0, byte_count) < 0 ||
      fstat(descriptor, &facts) < 0)
    error = errno;
  if (error) {
    shm_unlink(name);
    return closed_with(descriptor, error);
  }
  *inode = facts.st_ino;
  return descriptor;
}

int pb_shm_open(const char *name, int read_write, uint32_t uid, int64_t byte_count, uint64_t inode) {
  int descriptor = shm_open(name, (read_write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW, 0);
  if (descriptor < 0) return -errno;
  struct stat facts;
  if (fstat(descriptor, &facts) < 0) return closed_with(descriptor, errno);
  if (!S_ISREG(facts.st_mode) || facts.st_uid != uid || facts.st_size != byte_count ||
      facts.st_ino != inode)
    return closed_with(descriptor, ESTALE);
  return descriptor;
}

int pb_give_back(int descriptor) {
  struct stat facts;
  if (fstat(descriptor, &facts) < 0) return -errno;
  int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  return fallocate(descriptor, mode, 0, facts.st_size) < 0 ? -errno : 0;
}

int64_t pb_first_hole(int object, int64_t offset) {
  off_t hole = lseek(object, offset, SEEK_HOLE);
  return hole < 0 ? -errno : hole;
}

int64_t pb_first_data(int object, int64_t offset) {
  off_t data = lseek(object, offset, SEEK_DATA);
  return data < 0 ? -errno : data;
}

int pb_punch_hole(int file, int64_t offset, int64_t byte_count) {
  int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  return fallocate(file, mode, offset, byte_count) < 0 ? -errno : 0;
}

int pb_shm_unlink(const char *name) { return shm_unlink(name) < 0 ? -errno : 0; }

static int address_of(const char *path, struct sockaddr_un *address) {
  size_t byte_count = strlen(path);
  if (byte_count == 0 || byte_count >= sizeof address->sun_path) return -ENAMETOOLONG;
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  memcpy(address->sun_path, path, byte_count);
  return 0;
}

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

int pb_take_descriptors(int socket, int takes) {
  return setsockopt(socket, SOL_SOCKET, SO_PASSRIGHTS, &takes, sizeof takes) < 0 ? -errno : 0;
}

int pb_listen(const char *path, int backlog, uint32_t mode) {
  struct sockaddr_un address;
  int result = address_of(path, &address);
  if (result < 0) return result;
  int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener < 0) return -errno;
  // Before anybody can connect. A system that knows no such option lets descriptors be sent.
  pb_take_descriptors(listener, 0);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
      chmod(path, mode) < 0 || listen(listener, backlog) < 0)
    return closed_with(listener, errno);
  return listener;
}

// How long a blocking call on the socket may take: at least a millisecond, for zero is forever.
static int limit_sending(int socket, int64_t deadline_ns) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  int64_t left = deadline_ns - (now.tv_sec * INT64_C(1000000000) + now.tv_nsec);
  if (left < 1000000) left = 1000000;
  struct timeval limit = {left / 1000000000, left % 1000000000 / 1000};
  return setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

int pb_connect(const char *path, int64_t deadline_ns) {
  struct sockaddr_un address;
  int result = address_of(path, &address);
  if (result < 0) return result;
  // Connecting waits for room in the listener's queue, but only on a socket that blocks.
  int connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (connection < 0) return -errno;
  do {
    if (limit_sending(connection, deadline_ns) < 0) return closed_with(connection, errno);
    result = connect(connection, (struct sockaddr *)&address, sizeof address);
  } while (result < 0 && errno == EINTR);
  if (result < 0 || fcntl(connection, F_SETFL, O_NONBLOCK) < 0)
    return closed_with(connection, errno);
  return connection;
}

int pb_connect_now(const char *path) {
  struct sockaddr_un address;
  int result = address_of(path, &address);
  if (result < 0) return result;
  int connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (connection < 0) return -errno;
  do result = connect(connection, (struct sockaddr *)&address, sizeof address);
  while (result < 0 && errno == EINTR);
  return result < 0 ? closed_with(connection, errno) : connection;
}

static int option(int socket, int name) {
  int value = -1;
  socklen_t byte_count = sizeof value;
  return getsockopt(socket, SOL_SOCKET, name, &value, &byte_count) < 0 ? -1 : value;
}

int pb_adopt_listener(int listener, char *path, size_t capacity) {
  struct sockaddr_un address;
  socklen_t byte_count = sizeof address;
  memset(&address, 0, sizeof address);
  if (getsockname(listener, (struct sockaddr *)&address, &byte_count) < 0) return -errno;
  size_t path_count = strnlen(address.sun_path, sizeof address.sun_path);
  if (address.sun_family != AF_UNIX || option(listener, SO_TYPE) != SOCK_SEQPACKET ||
      option(listener, SO_ACCEPTCONN) != 1 || path_count == 0 || path_count >= capacity)
    return -EPROTOTYPE;
  memcpy(path, address.sun_path, path_count);
  path[path_count] = 0;
  int flags = fcntl(listener, F_GETFL);
  if (flags < 0 || fcntl(listener, F_SETFL, flags | O_NONBLOCK) < 0 ||
      fcntl(listener, F_SETFD, FD_CLOEXEC) < 0)
    return -errno;
  return 0;
}

int pb_send_datagram(const char *path, const char *text) {
  struct sockaddr_un address;
  int result = address_of(path, &address);
  if (result < 0) return result;
  socklen_t byte_count = offsetof(struct sockaddr_un, sun_path) + strlen(path);
  if (address.sun_path[0] == '@') address.sun_path[0] = 0;
  int sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (sender < 0) return -errno;
  ssize_t sent = sendto(sender, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT,
                        (struct sockaddr *)&address, byte_count);
  result = sent < 0 ? -errno : 0;
  close(sender);
  return result;
}

int pb_accept(int listener) {
  int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  return connection < 0 ? -errno : connection;
}

int pb_socket_pair(int *first, int *second) {
  int both[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, both) < 0) return -errno;
  *first = both[0];
  *second = both[1];
  return 0;
}

#define MOST_DESCRIPTORS 16

int64_t pb_send(int socket, const void *bytes, size_t byte_count, const int *descriptors, int count) {
  if (count < 0 || count > MOST_DESCRIPTORS) return -EINVAL;
  struct iovec part = {(void *)bytes, byte_count};
  union {
    struct cmsghdr aligned;
    char room[CMSG_SPACE(MOST_DESCRIPTORS * sizeof(int))];
  } control;
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (count > 0) {
    memset(&control, 0, sizeof control);
    message.msg_control = &control;
    message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
    memcpy(CMSG_DATA(head), descriptors, (size_t)count * sizeof(int));
  }
  ssize_t sent;
  do sent = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (sent < 0 && errno == EINTR);
  return sent < 0 ? -errno : sent;
}

// A reset is reported once, before packets that the peer had sent in time: its last words.
static ssize_t received(int socket, struct msghdr *message, int flags) {
  ssize_t count;
  int resets = 0;
  do count = recvmsg(socket, message, flags | MSG_CMSG_CLOEXEC | MSG_DONTWAIT | MSG_TRUNC);
  while (count < 0 && (errno == EINTR || (errno == ECONNRESET && resets++ == 0)));
  return count < 0 ? -errno : count;
}

int64_t pb_receive(int socket, void *bytes, size_t capacity, int *descriptors, int *count) {
  struct iovec part = {bytes, capacity};
  union {
    struct cmsghdr aligned;
    char room[CMSG_SPACE(MOST_DESCRIPTORS * sizeof(int))];
  } control;
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  // Without a control buffer the kernel installs no descriptor in this process, however many a peer
  // sends.
  if (descriptors && *count > 0) {
    message.msg_control = &control;
    message.msg_controllen =
        CMSG_SPACE((size_t)(*count < MOST_DESCRIPTORS ? *count : MOST_DESCRIPTORS) * sizeof(int));
  }
  ssize_t count_of_bytes = received(socket, &message, 0);
  if (count_of_bytes < 0) return count_of_bytes;
  int found = 0;
  if (message.msg_control) {
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head)) {
      if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
      int here = (int)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
      for (int i = 0; i < here; i++) {
        int descriptor;
        memcpy(&descriptor, CMSG_DATA(head) + (size_t)i * sizeof(int), sizeof descriptor);
        if (found < *count)
          descriptors[found++] = descriptor;
        else
          close(descriptor);
      }
    }
    if (message.msg_flags & MSG_CTRUNC) {
      // The packet is whole, its descriptors are not: it comes without any.
      for (int i = 0; i < found; i++) close(descriptors[i]);
      found = 0;
    }
  }
  if (count) *count = found;
  return count_of_bytes;
}

int64_t pb_peek(int socket, void *bytes, size_t capacity) {
  struct iovec part = {bytes, capacity};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  return received(socket, &message, MSG_PEEK);
}

int64_t pb_receive_guarded(int socket, void *bytes, size_t capacity, int takes_one,
                           int *descriptor, int *is_short) {
  struct iovec part = {bytes, capacity};
  union {
    struct cmsghdr aligned;
    char room[CMSG_SPACE(sizeof(int))];
  } control;
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (takes_one) {
    message.msg_control = &control;
    // Not the padded size, which would be room for two.
    message.msg_controllen = CMSG_LEN(sizeof(int));
  }
  *descriptor = -1;
  *is_short = 0;
  ssize_t count = received(socket, &message, 0);
  if (count < 0) return count;
  struct cmsghdr *head = takes_one ? CMSG_FIRSTHDR(&message) : NULL;
  if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS &&
      head->cmsg_len >= CMSG_LEN(sizeof(int)))
    memcpy(descriptor, CMSG_DATA(head), sizeof *descriptor);
  *is_short = (message.msg_flags & MSG_CTRUNC) != 0;
  return count;
}

int pb_peer(int socket, int32_t *pid, uint32_t *uid, uint32_t *gid) {
  struct ucred facts;
  socklen_t byte_count = sizeof facts;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &facts, &byte_count) < 0) return -errno;
  *pid = facts.pid;
  *uid = facts.uid;
  *gid = facts.gid;
  return 0;
}

int pb_peer_groups(int socket, uint32_t *groups, int capacity) {
  _Static_assert(sizeof(gid_t) == sizeof(uint32_t), "groups have 32 bits");
  if (capacity < 0) return -EINVAL;
  socklen_t byte_count = (socklen_t)((size_t)capacity * sizeof(uint32_t));
  if (getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups, &byte_count) < 0) return -errno;
  return (int)(byte_count / sizeof(uint32_t));
}

int pb_peer_pidfd(int socket, int32_t pid) {
  int descriptor = -1;
  socklen_t byte_count = sizeof descriptor;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &descriptor, &byte_count) == 0) {
    fcntl(descriptor, F_SETFD, FD_CLOEXEC);
    return descriptor;
  }
  if (errno != ENOPROTOOPT) return -errno;
  return pb_pidfd(pid);
}

int pb_pidfd(int32_t pid) {
  long result = syscall(SYS_pidfd_open, pid, 0);
  return result < 0 ? -errno : (int)result;
}

_Static_assert(sizeof(struct pb_poll_entry) == sizeof(struct pollfd), "laid out as struct pollfd");
_Static_assert(offsetof(struct pb_poll_entry, wanted) == offsetof(struct pollfd, events), "");
_Static_assert(offsetof(struct pb_poll_entry, ready) == offsetof(struct pollfd, revents), "");
_Static_assert(PB_POLL_READABLE == POLLIN && PB_POLL_WRITABLE == POLLOUT, "the same bits");

int pb_poll(struct pb_poll_entry *entries, int count, int64_t deadline_ns) {
  for (;;) {
    int64_t left = deadline_ns - pb_monotonic_ns();
    if (left < 0) left = 0;
    struct timespec timeout = {left / 1000000000, left % 1000000000};
    int result = ppoll((struct pollfd *)entries, (nfds_t)count, &timeout, NULL);
    if (result < 0 && errno == EINTR) continue;
    return result < 0 ? -errno : result;
  }
}

static int poll_for(int descriptor, short events, int64_t deadline_ns) {
  struct pb_poll_entry one = {descriptor, events, 0};
  return pb_poll(&one, 1, deadline_ns);
}

int pb_poll_readable(int descriptor, int64_t deadline_ns) {
  return poll_for(descriptor, POLLIN, deadline_ns);
}
int pb_poll_writable(int descriptor, int64_t deadline_ns) {
  return poll_for(descriptor, POLLOUT, deadline_ns);
}

uint64_t pb_process_start_time(int32_t pid) {
  char path[64], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return 0;
  ssize_t got = read(descriptor, text, sizeof text - 1);
  close(descriptor);
  if (got <= 0) return 0;
  text[got] = 0;
  // Field 2, the name in parentheses, may itself hold blanks and parentheses: the last one ends it.
  char *after = strrchr(text, ')');
  if (!after) return 0;
  unsigned long long ticks = 0;
  int field = 2;
  for (char *at = after + 1; *at; at++) {
    if (*at != ' ') continue;
    if (++field == 22) {
      ticks = strtoull(at + 1, NULL, 10);
      break;
    }
  }
  return ticks;
}

int pb_epoll_create(void) {
  int descriptor = epoll_create1(EPOLL_CLOEXEC);
  return descriptor < 0 ? -errno : descriptor;
}

static int epoll_change(int epoll, int operation, int descriptor, uint64_t tag, uint32_t events) {
  struct epoll_event event = {.events = events, .data = {.u64 = tag}};
  return epoll_ctl(epoll, operation, descriptor, &event) < 0 ? -errno : 0;
}

int pb_epoll_add(int epoll, int descriptor, uint64_t tag) {
  return epoll_change(epoll, EPOLL_CTL_ADD, descriptor, tag, EPOLLIN);
}
int pb_epoll_modify(int epoll, int descriptor, uint64_t tag, int writable) {
  return epoll_change(epoll, EPOLL_CTL_MOD, descriptor, tag, writable ? EPOLLIN | EPOLLOUT : EPOLLIN);
}
int pb_epoll_remove(int epoll, int descriptor) {
  return epoll_change(epoll, EPOLL_CTL_DEL, descriptor, 0, 0);
}

int pb_epoll_wait(int epoll, uint64_t *tags, uint32_t *flags, int capacity, int timeout_ms) {
  struct epoll_event events[64];
  int result = epoll_wait(epoll, events, capacity < 64 ? capacity : 64, timeout_ms);
  if (result < 0) return errno == EINTR ? 0 : -errno;
  for (int i = 0; i < result; i++) {
    tags[i] = events[i].data.u64;
    flags[i] = (events[i].events & EPOLLIN ? 1u : 0u) | (events[i].events & EPOLLOUT ? 2u : 0u) |
               (events[i].events & (EPOLLHUP | EPOLLERR) ? 4u : 0u);
  }
  return result;
}

int pb_pipe(int *ends) { return pipe2(ends, O_CLOEXEC) < 0 ? -errno : 0; }

int pb_eventfd(void) {
  int descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return descriptor < 0 ? -errno : descriptor;
}

int pb_eventfd_signal(int descriptor) {
  uint64_t one = 1;
  return write(descriptor, &one, sizeof one) < 0 && errno != EAGAIN ? -errno : 0;
}

int pb_eventfd_drain(int descriptor) {
  uint64_t count;
  return read(descriptor, &count, sizeof count) < 0 && errno != EAGAIN ? -errno : 0;
}

int pb_lock_file(const char *path) {
  int descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (descriptor < 0) return -errno;
  if (flock(descriptor, LOCK_EX | LOCK_NB) < 0) return closed_with(descriptor, errno);
  return descriptor;
}

int64_t pb_raise_descriptor_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return -errno;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return -errno;
  return (int64_t)limit.rlim_cur;
}

int64_t pb_shm_free_bytes(void) {
  struct statvfs facts;
  if (statvfs("/dev/shm", &facts) < 0) return -errno;
  return (int64_t)facts.f_bavail * (int64_t)facts.f_frsize;
}

int pb_exclude_from_fork(void *address, size_t byte_count) {
  return madvise(address, byte_count, MADV_DONTFORK) < 0 ? -errno : 0;
}

int pb_map_again(void *address, size_t byte_count, void **again) {
  // An old size of 0 leaves a shared mapping where it is and makes another of the same pages.
  void *copy = mremap(address, 0, byte_count, MREMAP_MAYMOVE);
  if (copy == MAP_FAILED) return -errno;
  *again = copy;
  return 0;
}

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

int pb_populate_for_writing(void *address, size_t byte_count) {
  return madvise(address, byte_count, MADV_POPULATE_WRITE) == 0 ? 0 : -errno;
}

int pb_name_thread(unsigned long thread, const char *name) {
  return -pthread_setname_np((pthread_t)thread, name);
}
