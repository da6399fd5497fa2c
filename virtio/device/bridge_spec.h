/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_DEVICE_BRIDGE_SPEC_H
#define VIRTIO_DEVICE_BRIDGE_SPEC_H
/*
 * What the bridge (tools/bridge) and the storage VM say to each other over the console port
 * `org.strongroom.bridge`: a byte stream of frames, little-endian, the same in both directions.
 *
 *     header │ handles: le64 each │ payload: `len` bytes
 *
 * A session. The storage VM opens it with HELLO, whenever it has just booted or lost the thread;
 * everything that either side knew of an earlier session is void. The bridge answers HELLO, then
 * one SIBLING for each. Bytes before a HELLO are skipped, one by one, by both sides. A frame that
 * makes no sense ends the session: the bridge then says END and skips until HELLO; the storage VM
 * stops all rings (without another access to their memory), skips, and says HELLO again. It does
 * the same after END, and after the port was closed and opened.
 *
 * A sibling. EXPORT on: the bridge listens on the sibling's vhost-user socket from now on (never
 * without an export: a sibling that is accepted and not answered hangs). When the sibling connects:
 * CONNECTED with resumed 0, then its messages as VHOST. When it was connected before (to an earlier
 * storage VM): CONNECTED with resumed 1, the messages that rebuild its last state, in the order of
 * vhost-user and without NEED_REPLY, then REPLAYED. SET_VRING_BASE of a replay is the ring's used
 * index; after REPLAYED the storage VM processes each started ring once and raises its interrupt
 * once, whatever the rings' events say. DISCONNECTED: the sibling has gone; drop its rings, it may
 * come again with CONNECTED. EXPORT off: the bridge closes the sibling's connection (which it
 * reports with DISCONNECTED) and listens no more.
 *
 * VHOST. One vhost-user message, header and payload as in vhost_user_spec.h. Descriptors became
 * handles: KICK, the MSI-X vector of the sibling's ivshmem device; CALL, the value for its doorbell
 * register, peer << 16 | vector; SET_MEM_TABLE, one for each region, 0: the file that BAR2 shows,
 * BRIDGE_ELSEWHERE: out of reach. No handle: there was none (poll; do not signal). Vector 0 is the
 * wake vector: it means any ring of that sibling, at any time. ERR is never passed on. CALL comes
 * only with the start of a ring, just before KICK, or while it runs; then the storage VM raises the
 * new interrupt once, since nobody may look at the old one any more. A request that wants an answer
 * (all GET_..., and what has NEED_REPLY) gets one, with the same tag. The bridge does not wait for
 * ever: it answers GET_VRING_BASE with the used index itself, acknowledges what it has recorded, and
 * closes the sibling's connection for the rest. Then follow DISCONNECTED and, for a sibling that is
 * still there, CONNECTED with a replay. An answer with an old tag is dropped.
 *
 * BACKEND, from the storage VM: a message of the back end to the sibling (a changed configuration),
 * without NEED_REPLY. Dropped when the sibling gave no socket for it.
 *
 * ivshmem. The device whose IVPosition (BAR0 + 8) is the sibling's number + 1 is that sibling's.
 * Frames with handles are sent after QEMU has taken in what the handles mean.
 */
#include "virtio/device/vhost_user_spec.h"

#define BRIDGE_MAGIC   0x72625253u /* "SRbr" */
#define BRIDGE_VERSION 1u

/* The payload, and who may send it: (b)ridge, (s)torage VM */
enum bridge_kind {
    BRIDGE_HELLO = 1,        /* b s  bridge_hello */
    BRIDGE_SIBLING = 2,      /* b    bridge_sibling */
    BRIDGE_EXPORT = 3,       /*   s  bridge_export */
    BRIDGE_CONNECTED = 4,    /* b    bridge_connected */
    BRIDGE_DISCONNECTED = 5, /* b    nothing */
    BRIDGE_REPLAYED = 6,     /* b    nothing */
    BRIDGE_VHOST = 7,        /* b s  a vhost-user message */
    BRIDGE_BACKEND = 8,      /*   s  a vhost-user message */
    BRIDGE_END = 9,          /* b    nothing */
};

struct bridge_frame {
    le32 magic;
    le16 kind;
    le16 sibling; /* its number, from 0; BRIDGE_ITSELF in HELLO and END */
    le32 len;     /* bytes of payload, at most BRIDGE_PAYLOAD */
    le16 handles; /* at most BRIDGE_HANDLES */
    le16 tag;     /* VHOST: an answer has its request's; 0 in all other frames */
};
static_assert(sizeof(struct bridge_frame) == 16, "header");
#define BRIDGE_ITSELF    0xffffu
#define BRIDGE_PAYLOAD   1024u
#define BRIDGE_HANDLES   8u
#define BRIDGE_FRAME_MAX (sizeof(struct bridge_frame) + 8 * BRIDGE_HANDLES + BRIDGE_PAYLOAD)
#define BRIDGE_ELSEWHERE UINT64_MAX

/* Who cannot speak the other's version says so and stops. Features: none yet; the session has those
 * that both sides named. */
struct bridge_hello {
    le32 version;
    le32 zero;
    le64 features;
};
static_assert(sizeof(struct bridge_hello) == 16, "HELLO");

#define BRIDGE_SIBLINGS   64u /* numbers are below this */
#define BRIDGE_QUEUES     64u /* of one sibling */
#define BRIDGE_NAME_BYTES 64u
struct bridge_sibling {
    le64 memory;                  /* bytes of its memory file, and so of BAR2: a power of two */
    char name[BRIDGE_NAME_BYTES]; /* filled up with zeroes, at least one */
};
static_assert(sizeof(struct bridge_sibling) == 72, "SIBLING");

struct bridge_export {
    le16 on;      /* 0 or 1 */
    le16 vectors; /* MSI-X vectors that the sibling's ivshmem device has; 1: the wake vector only */
    le32 zero;
};
static_assert(sizeof(struct bridge_export) == 8, "EXPORT");

struct bridge_connected {
    le32 resumed; /* 1: a replay follows, and REPLAYED */
    le32 zero;
};
static_assert(sizeof(struct bridge_connected) == 8, "CONNECTED");
#endif
