// The byte layout of everything that Patchbay's processes share: rings, doorbells, boards, client
// tables, journals, and the header of a control message. One home; Swift takes every offset from
// here and writes no number about bytes itself.
//
// Conventions. All fields are little-endian and naturally aligned. "By" names the only writer, "to"
// the readers, then the ordering of the access; a field without an ordering is plain and is settled
// before the object is handed out. Zero is the state of a fresh object, and is a legal state.
// Writers of different kinds never share a 64-byte line, except in a doorbell, whose two words are
// meant to bounce together. Padding is explicit.

#ifndef PATCHBAY_LAYOUT_H
#define PATCHBAY_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

// Sizes that several objects share.
enum {
  PB_PAGE = 4096,
  PB_LINE = 64,
  // Raised by every release in which any layout below has changed incompatibly.
  PB_LAYOUT_VERSION = 1,
};

// ------------------------------------------------------------------------------------------------
// Control message header. One SOCK_SEQPACKET packet is one message.
//
//   0        4      6      8          12      16            24
//   | magic  | ver  | type | length   | flags | request     | body ...
//
// request: chosen by the client, nonzero, unique within its session; the reply repeats it.
#define PB_FRAME_MAGIC 0x43595042u  // "BPYC" on the wire: 42 50 59 43
enum {
  PB_PROTOCOL_VERSION = 1,
  PB_FRAME_LIMIT = 65536,
  PB_INLINE_LIMIT = 16384,
  PB_KEY_LIMIT = 1024,
  // At most this many descriptors ride on one message, broker to client only.
  PB_DESCRIPTOR_LIMIT = 4,
};
typedef struct {
  uint32_t magic;
  uint16_t version;
  uint16_t type;
  uint32_t byte_count;  // of the whole packet, header included; must equal what was received
  uint32_t flags;       // zero in version 1; others are refused
  uint64_t request;
} pb_frame_header;
_Static_assert(sizeof(pb_frame_header) == 24, "frame header");
enum {
  PB_FRAME_MAGIC_AT = offsetof(pb_frame_header, magic),
  PB_FRAME_VERSION_AT = offsetof(pb_frame_header, version),
  PB_FRAME_TYPE_AT = offsetof(pb_frame_header, type),
  PB_FRAME_BYTE_COUNT_AT = offsetof(pb_frame_header, byte_count),
  PB_FRAME_FLAGS_AT = offsetof(pb_frame_header, flags),
  PB_FRAME_REQUEST_AT = offsetof(pb_frame_header, request),
  PB_FRAME_HEADER_BYTES = sizeof(pb_frame_header),
};

// ------------------------------------------------------------------------------------------------
// Ring. Named shared memory, one object per ring; in its role as part of a `keep` blob an extent.
//
//   0            4096                                            data_at
//   | header     | written map (only for blobs written in any    | data, whole pages
//   |            | order), then up to the next page              |
//
// Written map, D = data bytes, a multiple of PB_PAGE. Level 0 has a bit per byte, level k a bit per
// 64^k bytes. Planes stand in this order, each a whole number of 64-bit words:
//
//   | level n (1 word) | ... | level 2 | touched | level 1 |..page..| level 0 |..page..
//
// touched: a bit per PB_PAGE of data: some bit of level 0 there has ever been set. Set before the
// level-0 bit, so a clear bit spares the reader a page of level 0. A set bit on level k says that
// all its 64^k bytes are covered, whatever the levels below say.
#define PB_RING_MAGIC 0x474e495259414250ull  // "PBAYRING"
enum {
  PB_MAP_FANOUT = 64,      // bits per word, and words of a level per word of the next
  PB_MAP_LEVEL_LIMIT = 8,  // 64^7 bytes are 4 TiB
  PB_TOUCHED_BYTES = PB_PAGE,
  PB_RING_MARK_COUNT = 128,
};
typedef struct {
  // Identity, by the broker before the first descriptor leaves, to people and tools. Nothing is
  // ever decided by it: geometry travels in control messages.
  uint64_t magic;
  uint32_t layout_version;
  uint32_t features;  // bit 0: has a written map
  uint64_t instance;  // of the broker
  uint64_t ring_id;
  uint64_t data_byte_count;
  uint64_t data_at;
  uint8_t pad0[16];
  // Line 1. tag: by the broker, which begins each use before it hands the ring out, to all readers. use
  // number << 32 | extent + 1. Zero: invalid, being reset. Written last (behind a release fence) when a
  // use begins, invalidated first (before a sequentially consistent fence); loaded (acquire) before and
  // after each copy.
  uint64_t tag;
  // Windowed blobs only, by the publisher, once per segment. base: the lowest position whose byte is
  // still here; raised (before a sequentially consistent fence) before the first byte below it is
  // overwritten, loaded after each copy. intent: what base is about to become; stored before the
  // publisher looks for subscribers for the last time, loaded by whoever joins. Stale: a reader
  // that is refused bytes that are there just now, or whose copy the look after it refuses.
  uint64_t base;
  uint64_t intent;
  uint8_t pad1[40];
  // Line 2, by whichever publisher thread advances it (compare-and-swap, release), to readers
  // (acquire). The end of the contiguous prefix: in bytes of this ring, for windowed blobs a position.
  // Only grows within a use; a stale value hides covered bytes for a moment and nothing else.
  uint64_t frontier;
  uint8_t pad2[56];
  // Line 3, by publishers (relaxed add, after the mark), to people. A hint: a publisher that dies
  // between mark and add leaves it short.
  uint64_t covered_bytes;
  uint8_t pad3[56];
  // Line 4 and on, by the publisher: positions of the blob at which a record begins. mark_count
  // counts all ever made (release); mark i stands in slot i mod PB_RING_MARK_COUNT. In the first ring
  // of a blob only.
  uint64_t mark_count;
  uint8_t pad4[56];
  uint64_t marks[PB_RING_MARK_COUNT];
  uint8_t pad5[PB_PAGE - 5 * PB_LINE - 8 * PB_RING_MARK_COUNT];
} pb_ring_header;
_Static_assert(sizeof(pb_ring_header) == PB_PAGE, "ring header is one page");
_Static_assert(offsetof(pb_ring_header, tag) == 1 * PB_LINE, "tag has its own line");
_Static_assert(offsetof(pb_ring_header, frontier) == 2 * PB_LINE, "frontier has its own line");
_Static_assert(offsetof(pb_ring_header, covered_bytes) == 3 * PB_LINE, "hint has its own line");
_Static_assert(offsetof(pb_ring_header, mark_count) == 4 * PB_LINE, "marks have their own line");
enum {
  PB_RING_TAG_AT = offsetof(pb_ring_header, tag),
  PB_RING_BASE_AT = offsetof(pb_ring_header, base),
  PB_RING_INTENT_AT = offsetof(pb_ring_header, intent),
  PB_RING_FRONTIER_AT = offsetof(pb_ring_header, frontier),
  PB_RING_COVERED_BYTES_AT = offsetof(pb_ring_header, covered_bytes),
  PB_RING_MARK_COUNT_AT = offsetof(pb_ring_header, mark_count),
  PB_RING_MARKS_AT = offsetof(pb_ring_header, marks),
  PB_RING_HEADER_BYTES = sizeof(pb_ring_header),
  PB_RING_HAS_MAP = 1,
};

// ------------------------------------------------------------------------------------------------
// Doorbells. A memfd sealed against shrinking and growing, one per access class, read-write for the
// whole class: its words are hints, never truth. Bell i belongs to board entry i.
//
//   0         4096
//   | header  | bells of entry 0 (64 B) | of entry 1 | ...
#define PB_BELLS_MAGIC 0x4c4c454259414250ull  // "PBAYBELL"
typedef struct {
  // By subscribers (fetch-or, sequentially consistent) and by whoever rings (fetch-and, relaxed),
  // to whoever rings. Bit c: somebody waits for bytes of wake class c. A stale set bit costs one
  // needless wake-up; a stale clear bit is what the fences rule out.
  uint32_t waiting;
  // The futex word. By whoever rings (add, release), to subscribers (acquire) and the kernel.
  uint32_t seq;
  // Counts for people (relaxed adds): waiters woken, waiters that woke for nothing, and waits
  // that only the time bound ended although the bytes were there.
  uint64_t wakes;
  uint64_t needless_wakes;
  uint64_t rescued_waits;
} pb_bell;
// An entry's two bells share a line: both are written only when somebody waits.
typedef struct {
  pb_bell bytes;  // rung by whoever covers bytes, waited on by subscribers
  pb_bell space;  // rung by sequential subscribers, waited on by a windowed blob's publisher
} pb_bell_pair;
_Static_assert(sizeof(pb_bell_pair) == PB_LINE, "an entry's bells are one line");
enum {
  PB_BELL_WAITING_AT = offsetof(pb_bell, waiting),
  PB_BELL_SEQ_AT = offsetof(pb_bell, seq),
  PB_BELL_WAKES_AT = offsetof(pb_bell, wakes),
  PB_BELL_NEEDLESS_WAKES_AT = offsetof(pb_bell, needless_wakes),
  PB_BELL_RESCUED_WAITS_AT = offsetof(pb_bell, rescued_waits),
  PB_BELL_PAIR_BYTES = sizeof(pb_bell_pair),
  PB_BELL_SPACE_AT = offsetof(pb_bell_pair, space),
  PB_BELL_CLASS_COUNT = 32,
};

// ------------------------------------------------------------------------------------------------
// Board. A sealed memfd, one or more per access class, written by the broker alone, read-only for
// clients. An entry lives while a session has the blob open; its generation tells whose it is.
//
//   0         4096
//   | header  | entry 0 (256 B) | entry 1 | ...
#define PB_BOARD_MAGIC 0x44524f4259414250ull  // "PBAYBORD"
enum {
  PB_BOARD_CAUSE_LIMIT = 192,
  PB_BOARD_ENTRY_COUNT = 4096,  // per board; a class that needs more gets another board
};
typedef struct {
  // By the broker (release, after everything below), to clients (acquire). Low to high:
  // state 8 bits, epoch 24 bits, low 32 bits of the generation. A reader whose generation differs
  // has lost the entry to another blob.
  uint64_t status;
  // -1 while unknown. Written before the status that makes it final (sealed).
  int64_t byte_count;
  // By the broker (release), to subscribers (acquire): counts grants of extents, so a subscriber
  // that waits for an extent knows when to ask for its descriptor again.
  uint32_t extent_version;
  // The failure: settled before the status that announces it.
  uint16_t cause_code;
  uint16_t cause_byte_count;
  // By the broker (release), to a windowed blob's publisher (acquire): counts the comings and goings
  // of sequential subscribers, so it knows when to ask who they are.
  uint32_t subscription_version;
  // By the broker (release), to a produced blob's publisher (acquire): 1 while it is to wait because
  // nobody reads, else 0.
  uint32_t is_paused;
  uint8_t pad[32];
  uint8_t cause[PB_BOARD_CAUSE_LIMIT];  // UTF-8, cut at a character
} pb_board_entry;
_Static_assert(sizeof(pb_board_entry) == 256, "board entry");
_Static_assert(offsetof(pb_board_entry, cause) == 64, "cause has lines of its own");
enum {
  PB_ENTRY_STATUS_AT = offsetof(pb_board_entry, status),
  PB_ENTRY_BYTE_COUNT_AT = offsetof(pb_board_entry, byte_count),
  PB_ENTRY_EXTENT_VERSION_AT = offsetof(pb_board_entry, extent_version),
  PB_ENTRY_SUBSCRIPTION_VERSION_AT = offsetof(pb_board_entry, subscription_version),
  PB_ENTRY_IS_PAUSED_AT = offsetof(pb_board_entry, is_paused),
  PB_ENTRY_CAUSE_CODE_AT = offsetof(pb_board_entry, cause_code),
  PB_ENTRY_CAUSE_BYTE_COUNT_AT = offsetof(pb_board_entry, cause_byte_count),
  PB_ENTRY_CAUSE_AT = offsetof(pb_board_entry, cause),
  PB_ENTRY_BYTES = sizeof(pb_board_entry),
};
// Both boards and doorbells start with this header, by the broker before the descriptor leaves.
typedef struct {
  uint64_t magic;
  uint32_t layout_version;
  uint32_t entry_count;
  uint64_t instance;
  uint32_t board_id;
  uint8_t pad[PB_PAGE - 28];
} pb_board_header;
_Static_assert(sizeof(pb_board_header) == PB_PAGE, "board header is one page");
enum {
  PB_BOARD_HEADER_BYTES = sizeof(pb_board_header),
};

// ------------------------------------------------------------------------------------------------
// Client table. A sealed memfd, one per client, written by that client alone, read by it and the
// broker.
//
//   0         4096             8192 ...
//   | header  | views (16 B)   | positions (64 B), of sequential subscribers of windowed blobs
#define PB_TABLE_MAGIC 0x4c42415459414250ull  // "PBAYTABL"
enum {
  PB_TABLE_VIEW_COUNT = 256,
  PB_TABLE_POSITION_COUNT = 64,
};
typedef struct {
  // By the client, to whoever wants to reuse the ring. Announced (sequentially consistent fence
  // after it) before the client checks the tag; cleared (release) after its last access. Zero: free.
  uint64_t ring_id;
  uint64_t use_number;
} pb_view_entry;
typedef struct {
  // By the client (release), to the publisher of a windowed blob (acquire). Which blob the entry
  // is about, 0 for none, and the first position whose byte is still wanted. The loads of all bytes
  // below it come before. Stale: the publisher waits a little longer.
  uint64_t generation;
  uint64_t position;
  uint8_t pad[48];
} pb_position_entry;
typedef struct {
  uint64_t magic;
  uint32_t layout_version;
  uint32_t reserved;
  uint64_t client_id;
  uint8_t pad[PB_PAGE - 24];
  pb_view_entry views[PB_TABLE_VIEW_COUNT];
  pb_position_entry positions[PB_TABLE_POSITION_COUNT];
} pb_client_table;
_Static_assert(sizeof(pb_view_entry) == 16, "view entry");
_Static_assert(sizeof(pb_position_entry) == PB_LINE, "position entry is one line");
_Static_assert(offsetof(pb_client_table, views) == PB_PAGE, "views");
_Static_assert(sizeof(pb_client_table) == 3 * PB_PAGE, "client table");
enum {
  PB_TABLE_VIEWS_AT = offsetof(pb_client_table, views),
  PB_TABLE_POSITIONS_AT = offsetof(pb_client_table, positions),
  PB_TABLE_BYTES = sizeof(pb_client_table),
  PB_VIEW_RING_ID_AT = offsetof(pb_view_entry, ring_id),
  PB_VIEW_USE_NUMBER_AT = offsetof(pb_view_entry, use_number),
  PB_VIEW_BYTES = sizeof(pb_view_entry),
  PB_POSITION_GENERATION_AT = offsetof(pb_position_entry, generation),
  PB_POSITION_POSITION_AT = offsetof(pb_position_entry, position),
  PB_POSITION_BYTES = sizeof(pb_position_entry),
};

// ------------------------------------------------------------------------------------------------
// Journal. Named shared memory, the broker's alone, in chunks of one size that come as they are
// needed and go when nothing stands in them. A chunk keeps its number, so there may be gaps; chunk
// 0 is always there.
//
//   0         4096                 PB_CHUNK_BODIES_AT                       PB_CHUNK_BYTES
//   | header  | records (2 x 256)  | bodies: 64-byte granules               |
//
// A record has two copies; the one with the right checksum and the higher sequence counts. A change
// writes the body (key, type, labels, extents, inline bytes, cause) into free granules first, then
// the older copy of the record, which names the body by chunk, granule and checksum: so each change
// is whole or absent whenever the broker dies. Free granules are those no valid record names.
#define PB_JOURNAL_MAGIC 0x4c4e524a59414250ull  // "PBAYJRNL"
enum {
  PB_CHUNK_BYTES = 4 * 1024 * 1024,
  // A record's share of bodies is 1.5 KiB then; 1024 records would leave most of 3.5 KiB unused.
  PB_CHUNK_RECORD_COUNT = 2048,
  PB_GRANULE = 64,
  PB_RECORD_EMPTY = 0,
  PB_RECORD_BROKER = 1,
  PB_RECORD_CLIENT = 2,
  PB_RECORD_BLOB = 3,
};
typedef struct {
  uint64_t magic;
  uint32_t layout_version;
  uint32_t chunk_index;
  uint64_t instance;
  uint8_t pad[PB_PAGE - 24];
} pb_journal_header;
_Static_assert(sizeof(pb_journal_header) == PB_PAGE, "journal header is one page");
typedef struct {
  uint64_t checksum;  // of all that follows, 248 bytes
  uint64_t sequence;  // of this record; the higher of two valid copies counts
  uint32_t kind;      // PB_RECORD_*
  uint32_t body_chunk;
  uint32_t body_granule;
  uint32_t body_byte_count;
  uint64_t body_checksum;
  // Blob: generation. Client: client id. Broker: instance.
  uint64_t identity;
  // Blob: state, policy, acknowledgement, write order, one byte each.
  uint8_t state;
  uint8_t policy;
  uint8_t acknowledgement;
  uint8_t order;
  uint32_t flags;
  // Access triple. Client: uid, gid of the peer.
  uint32_t uid;
  uint32_t gid;
  uint32_t mode;
  uint32_t epoch;
  int64_t byte_count;        // -1 while unknown
  int64_t first_extent;      // bytes of the first extent
  int64_t extent_limit;      // bytes of the largest
  uint64_t created;          // seconds since 1970 << 30 | nanoseconds
  uint64_t modified;
  uint64_t last_read;
  // Publisher of a blob, or the client itself: token and the request number that created it, so a
  // repeated create or seal finds what it has already done.
  uint64_t token[2];
  uint64_t request;
  int32_t pid;
  uint32_t hand_over_phase;  // 0 none; fencing, switched: for take-over
  uint64_t start_time;       // of the process, clock ticks since boot
  // Broker: the next numbers to give out.
  uint64_t next_generation;
  uint64_t next_ring;
  uint64_t next_client;
  uint8_t digest[32];
  uint8_t digest_kind;
  uint8_t pad0[7];
  int64_t segment;  // bytes of a windowed blob's segment; 0 for `keep`
  uint8_t pad1[24];
} pb_journal_record;
_Static_assert(sizeof(pb_journal_record) == 256, "journal record");
enum {
  PB_JOURNAL_HEADER_BYTES = sizeof(pb_journal_header),
  PB_RECORD_BYTES = sizeof(pb_journal_record),
  PB_RECORD_COPIES = 2,
  PB_CHUNK_RECORDS_AT = sizeof(pb_journal_header),
  PB_CHUNK_BODIES_AT =
      sizeof(pb_journal_header) + PB_CHUNK_RECORD_COUNT * PB_RECORD_COPIES * sizeof(pb_journal_record),
  PB_CHUNK_GRANULE_COUNT = (PB_CHUNK_BYTES - PB_CHUNK_BODIES_AT) / PB_GRANULE,
  PB_RECORD_CHECKSUM_AT = offsetof(pb_journal_record, checksum),
  PB_RECORD_SEQUENCE_AT = offsetof(pb_journal_record, sequence),
};
_Static_assert(PB_CHUNK_BODIES_AT % PB_PAGE == 0, "bodies start on a page");

#endif
