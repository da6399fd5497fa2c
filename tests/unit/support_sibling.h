/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_UNIT_SUPPORT_SIBLING_H
#define TESTS_UNIT_SUPPORT_SIBLING_H
/*
 * Siblings in one process: a bridge that speaks the relay over a pipe to our own relay, and guests
 * with memory, rings made by hand, and a QEMU that says what the test wants. All in coroutines;
 * cmocka's assertions inside.
 */
#include "tests/unit/memdisk.h"
#include "tests/unit/support.h"
#include "tests/unit/support_duplex.h"

#include "virtio/device/sibling.h"

#define GUESTS      3u
#define GUEST_BYTES (1u << 20)
#define GUEST_BASE  0x40000000ull     /* guest address of its memory, and ... */
#define GUEST_USER  0x7f0000000000ull /* ... where its QEMU has it */
#define GUEST_RING  16u
#define GUEST_WAIT  20000u /* turns */

struct guest {
    struct sibling_link at;
    char name[16];
    uint8_t *mem;
    bool on, connected, announced;
    unsigned interrupts, throws; /* throws: EXPORT off that were seen */
    /* The last reply. */
    bool replied;
    uint16_t tag;
    uint8_t reply[BRIDGE_PAYLOAD];
    size_t reply_len;
    unsigned changes; /* of the configuration, as told */
    struct ring {     /* one queue: areas at fixed places of memory */
        unsigned index;
        struct vring_desc *desc;
        struct vring_avail *avail;
        struct vring_used *used;
        uint16_t next, seen;
    } ring[4];
};
extern struct guest guest[GUESTS];

/* Guest n has all of this process's memory for its own, at the same addresses: for drivers of ours,
 * which take memory where they find it. Once, before the bridge. */
#define ALL_BASE  65536ull
#define ALL_BYTES ((1ull << 47) - 2 * ALL_BASE)
void guest_is_us(unsigned n);
/* The bridge and its end of the pipe; guests 0.. are announced as "g0", ... */
void co_bridge_open(unsigned guests);
void co_bridge_close(void);
void co_bridge_bytes(const void *p, size_t n);
/* One frame. */
void co_bridge_say(enum bridge_kind kind, unsigned sibling, const void *p, size_t n,
                   const uint64_t *handle, unsigned handles, uint16_t tag);
extern unsigned bridge_hellos; /* that the storage VM said */

/* Export of a node for a guest: id "eN"; more: ",num-queues=2". */
void co_guest_export(unsigned n, const char *node, const char *more);
void co_guest_unexport(unsigned n);

/* ---- What its QEMU says ---- */
void co_guest_connect(struct guest *g, bool resumed);
void co_guest_disconnect(struct guest *g);
void co_guest_send(struct guest *g, uint32_t request, uint32_t flags, const void *p, size_t n,
                   const uint64_t *handle, unsigned handles);
/* ... and waits for the reply: its payload's length. */
size_t co_guest_ask(struct guest *g, uint32_t request, const void *p, size_t n);
uint64_t co_guest_ask_u64(struct guest *g, uint32_t request);
void co_guest_u64(struct guest *g, uint32_t request, uint64_t value);
void co_guest_state(struct guest *g, uint32_t request, uint32_t index, uint32_t num);
void co_guest_memory(struct guest *g);
/* Connect, negotiate, memory, and start of queue 0 .. queues-1. */
void co_guest_boot(struct guest *g, uint64_t features, unsigned queues);
void co_guest_start(struct guest *g, unsigned queue, uint16_t base);
uint16_t co_guest_stop(struct guest *g, unsigned queue); /* GET_VRING_BASE */

/* ---- What it does itself ---- */
static inline uint64_t guest_addr(const struct guest *g, const void *p)
{
    return GUEST_BASE + (uint64_t)((const uint8_t *)p - g->mem);
}
struct part {
    uint64_t addr;
    uint32_t len;
    uint16_t flags; /* VRING_DESC_WRITE, _INDIRECT */
};
/* A chain in descriptors from `head` on, made available. */
void guest_chain(struct ring *r, unsigned head, const struct part *p, unsigned n);
void guest_offer(struct ring *r, uint16_t head);
/* Header, data, status in the guest's memory at slot `n` (0 .. 15: 32 KiB each). */
struct guest_req {
    struct virtio_blk_req *head;
    uint8_t *data, *status;
};
struct guest_req guest_req(struct guest *g, unsigned n, uint32_t type, uint64_t sector);
/* Offers it with `len` bytes of data in three parts of the chain. */
void guest_submit(struct guest *g, struct ring *r, unsigned n, struct guest_req q, size_t len,
                  bool write);
bool guest_used(struct ring *r, uint32_t *id); /* the next used entry, if there is one */
uint32_t co_guest_used(struct ring *r);        /* waits; fails the test when it never comes */
/* One request from beginning to end: its status. */
unsigned co_guest_do(struct guest *g, struct ring *r, uint32_t type, uint64_t sector, void *data,
                     size_t len);
/* Some verified writes and reads: the guest is well served. */
void co_guest_well(struct guest *g, struct ring *r, unsigned seed);
/* Some turns of the loop. */
void co_turns(unsigned n);
#endif
