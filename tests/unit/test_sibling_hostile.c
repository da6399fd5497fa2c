/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A sibling that attacks: rings, requests and messages that no driver and no QEMU would make. Its
 * queue breaks, or its request fails, or its QEMU is thrown out; each time it is reported, another
 * sibling's verified I/O runs on, and a new start makes the queue good again.
 */
#include "tests/unit/support_sibling.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLUSH    (1ull << VIRTIO_BLK_F_FLUSH)
#define INDIRECT (1ull << VIRTIO_F_INDIRECT_DESC)
#define W        VRING_DESC_WRITE
#define BROKEN   0x100 /* expected: the queue breaks; else the status of the request */

static struct guest *const bad = &guest[0], *const good = &guest[1];
static struct ring *const r = &guest[0].ring[0];
static struct memdisk *disk;
static unsigned rounds;

static struct vdisk_queue *queue(void)
{
    return &sibling_by_name("g0")->vhost.disk.queue[0];
}

static void co_setup(void)
{
    disk = memdisk_of(test_open("mem,node-name=m,size=1M,request-alignment=512"));
    test_open("mem,node-name=other,size=1M");
    co_bridge_open(2);
    co_guest_export(0, "m", "");
    co_guest_export(1, "other", "");
    co_guest_boot(good, FLUSH, 1);
}

static void co_teardown(void)
{
    co_guest_unexport(0);
    co_guest_unexport(1);
    co_bridge_close();
    for (unsigned i = 0; i < 2; i++) {
        struct node *n = node_find(i ? "other" : "m");
        n->monitor_owned = false;
        co_node_unref(n);
    }
}

static void co_good_runs_on(void)
{
    co_guest_well(good, &good->ring[0], ++rounds);
}

/* ---- Chains ----------------------------------------------------------------------------------- */

#define BASE   GUEST_BASE
#define END    (GUEST_BASE + GUEST_BYTES)
#define MIDDLE (GUEST_BASE + GUEST_BYTES / 2)
#define TABLE  (GUEST_BASE + 8192) /* of indirect descriptors */
/* clang-format off */
#define HEAD   {BASE, 16, 0}
#define DATA   {BASE + 512, 512, W}
#define STAT   {BASE + 16, 1, W}

static const struct chain {
    const char *name;
    struct part part[4];
    int expected;
} chains[] = {
    {"header below memory", {{BASE - 4096, 16, 0}, DATA, STAT}, BROKEN},
    {"header behind memory", {{END, 16, 0}, DATA, STAT}, BROKEN},
    {"header straddles the end", {{END - 15, 16, 0}, DATA, STAT}, BROKEN},
    {"header wraps", {{UINT64_MAX - 7, 16, 0}, DATA, STAT}, BROKEN},
    {"header at the last byte", {{UINT64_MAX, 16, 0}, DATA, STAT}, BROKEN},
    {"header at 0", {{0, 16, 0}, DATA, STAT}, BROKEN},
    {"data straddle the end", {HEAD, {END - 256, 512, W}, STAT}, BROKEN},
    {"data straddle windows", {HEAD, {MIDDLE - 256, 512, W}, STAT}, BROKEN},
    {"data of 4 GiB", {HEAD, {BASE, UINT32_MAX, W}, STAT}, BROKEN},
    {"data longer than memory", {HEAD, {BASE, GUEST_BYTES + 512, W}, STAT}, BROKEN},
    {"data in memory elsewhere", {HEAD, {BASE << 4, 512, W}, STAT}, BROKEN},
    {"data at QEMU's address", {HEAD, {GUEST_USER, 512, W}, STAT}, BROKEN},
    {"status behind memory", {HEAD, DATA, {END, 1, W}}, BROKEN},
    {"header of nothing", {{BASE, 0, 0}, DATA, STAT}, BROKEN},
    {"data of nothing", {HEAD, {BASE + 512, 0, W}, STAT}, BROKEN},
    {"status of nothing", {HEAD, DATA, {BASE + 16, 0, W}}, BROKEN},
    {"status first", {STAT, HEAD, DATA}, BROKEN},
    {"read after write", {HEAD, STAT, {BASE + 512, 512, 0}}, BROKEN},
    {"all to write", {{BASE, 16, W}, DATA, STAT}, BROKEN},
    {"all to read", {HEAD, {BASE + 512, 512, 0}, {BASE + 16, 1, 0}}, BROKEN},
    {"header only", {HEAD}, BROKEN},
    {"status only", {STAT}, BROKEN},
    {"short header", {{BASE, 15, 0}, DATA, STAT}, BROKEN},
    {"header in pieces", {{BASE, 7, 0}, {BASE + 7, 9, 0}, DATA, STAT}, 0},
    {"status behind data", {HEAD, {BASE + 512, 513, W}}, -1},
    {"data of half a sector", {HEAD, {BASE + 512, 256, W}, STAT}, VIRTIO_BLK_S_IOERR},
    {"data of a byte", {HEAD, {BASE + 512, 1, W}, STAT}, VIRTIO_BLK_S_IOERR},
    {"no data", {HEAD, STAT}, VIRTIO_BLK_S_IOERR},
    {"data over the header", {HEAD, {BASE, 512, W}, {BASE + 1024, 1, W}}, -1},
    {"data over the used ring", {HEAD, {END - 65536 + 8192, 512, W}, STAT}, -1},
    {"data over the descriptors", {HEAD, {END - 65536, 512, W}, STAT}, -1},
    {"indirect, not negotiated", {{TABLE, 48, VRING_DESC_INDIRECT}}, BROKEN},
};

static const struct chain requests[] = {
    /* headers in `said` */
    {"unknown type", {HEAD, DATA, STAT}, VIRTIO_BLK_S_UNSUPP},
    {"type of all ones", {HEAD, DATA, STAT}, VIRTIO_BLK_S_UNSUPP},
    {"past the end", {HEAD, DATA, STAT}, VIRTIO_BLK_S_IOERR},
    {"half past the end", {HEAD, {BASE + 512, 1024, W}, STAT}, VIRTIO_BLK_S_IOERR},
    {"last sector of all", {HEAD, DATA, STAT}, VIRTIO_BLK_S_IOERR},
    {"bytes overflow", {HEAD, DATA, STAT}, VIRTIO_BLK_S_IOERR},
    {"bytes overflow to 0", {HEAD, DATA, STAT}, VIRTIO_BLK_S_IOERR},
    {"write past the end", {HEAD, {BASE + 512, 512, 0}, STAT}, VIRTIO_BLK_S_IOERR},
    {"write of what is to write", {HEAD, DATA, STAT}, VIRTIO_BLK_S_IOERR},
    {"discard without a range", {HEAD, STAT}, VIRTIO_BLK_S_IOERR},
    {"discard of half a range", {HEAD, {BASE + 512, 8, 0}, STAT}, VIRTIO_BLK_S_IOERR},
    {"too many ranges", {HEAD, {BASE + 512, 16 * 33, 0}, STAT}, VIRTIO_BLK_S_IOERR},
    {"zeroes with unknown flags", {HEAD, {BASE + 512, 16, 0}, STAT}, VIRTIO_BLK_S_UNSUPP},
    {"identity of nothing", {HEAD, STAT}, 0},
    {"flush with data", {HEAD, DATA, STAT}, 0},
};
static const struct {
    uint32_t type;
    uint64_t sector;
    uint8_t fill; /* of what is to be read */
} said[ARRAY_LEN(requests)] = {
    {77, 0, 0},
    {UINT32_MAX, 0, 0},
    {VIRTIO_BLK_T_IN, 2048, 0},
    {VIRTIO_BLK_T_IN, 2047, 0},
    {VIRTIO_BLK_T_IN, UINT64_MAX, 0},
    {VIRTIO_BLK_T_IN, 1ull << 54, 0},
    {VIRTIO_BLK_T_IN, 1ull << 55, 0},
    {VIRTIO_BLK_T_OUT, 2048, 0},
    {VIRTIO_BLK_T_OUT, 0, 0},
    {VIRTIO_BLK_T_DISCARD, 0, 0},
    {VIRTIO_BLK_T_DISCARD, 0, 0},
    {VIRTIO_BLK_T_DISCARD, 0, 0},
    {VIRTIO_BLK_T_WRITE_ZEROES, 0, 0xf0},
    {VIRTIO_BLK_T_GET_ID, 0, 0},
    {VIRTIO_BLK_T_FLUSH, 0, 0},
};
/* clang-format on */

static void co_boot(uint64_t features)
{
    co_guest_boot(bad, FLUSH | features, 1);
    co_turns(30);
    assert_int_equal(queue()->state, VDISK_OPEN);
    queue()->disk->reported_ns = 0;
    memset(bad->mem, 0, 65536);
    bad->mem[16] = 0xee;
}

/* What became of it, and the same guest after a new start. */
static void co_judge(const char *name, int expected)
{
    co_turns(60);
    if (expected == BROKEN && (!queue()->ring.broken || !queue()->disk->reported_ns))
        fail_msg("%s: the queue is not broken, or nobody heard of it", name);
    if (expected >= 0 && expected != BROKEN && (queue()->ring.broken || bad->mem[16] != expected))
        fail_msg("%s: status %u, broken %d", name, bad->mem[16], queue()->ring.broken);
    co_good_runs_on();
    co_guest_disconnect(bad);
    co_boot(0);
    co_guest_well(bad, r, rounds);
    co_guest_disconnect(bad);
}

static void co_chain(const struct chain *c)
{
    unsigned n = 0;
    while (n < ARRAY_LEN(c->part) && (c->part[n].addr || c->part[n].len))
        n++;
    guest_chain(r, 3, c->part, n);
    co_judge(c->name, c->expected);
}

static void co_chains(void *arg)
{
    (void)arg;
    co_setup();
    for (unsigned i = 0; i < ARRAY_LEN(chains); i++) {
        co_boot(0);
        co_chain(&chains[i]);
    }
    co_teardown();
}

static void co_bad_requests(void *arg)
{
    (void)arg;
    co_setup();
    for (unsigned i = 0; i < ARRAY_LEN(requests); i++) {
        co_boot(0);
        memset(bad->mem + 512, said[i].fill, 1024);
        guest_req(bad, 0, said[i].type, said[i].sector);
        co_chain(&requests[i]);
    }
    co_teardown();
}

/* ---- Rings and tables ------------------------------------------------------------------------- */

static void desc(struct vring_desc *d, uint64_t addr, uint32_t len, unsigned flags, unsigned next)
{
    le64_set(&d->addr, addr);
    le32_set(&d->len, len);
    le16_set(&d->flags, (uint16_t)flags);
    le16_set(&d->next, (uint16_t)next);
}

static void chain_to(unsigned next)
{
    desc(&r->desc[0], BASE, 16, VRING_DESC_NEXT, next);
    guest_offer(r, 0);
}

static void to_itself(void)
{
    chain_to(0);
}

static void in_a_circle(void)
{
    for (unsigned i = 0; i < GUEST_RING; i++)
        desc(&r->desc[i], BASE, 16, VRING_DESC_NEXT, (i + 1) % GUEST_RING);
    guest_offer(r, 0);
}

static void next_out_of_range(void)
{
    chain_to(GUEST_RING);
}

static void next_far_out(void)
{
    chain_to(0xffff);
}

static void head_out_of_range(void)
{
    guest_offer(r, GUEST_RING);
}

static void head_far_out(void)
{
    guest_offer(r, 0xffff);
}

static void index_jumps(void)
{
    vring_store(&r->avail->idx, GUEST_RING + 1);
}

static void index_jumps_far(void)
{
    vring_store(&r->avail->idx, 0x8000);
}

static void index_goes_back(void)
{
    vring_store(&r->avail->idx, 0xffff);
}

/* An indirect table of the guest, and the ring's descriptor of it. */
static struct vring_desc *table(uint64_t addr, uint32_t len, unsigned flags)
{
    struct vring_desc *t = (struct vring_desc *)(void *)(bad->mem + 8192);
    desc(&t[0], BASE, 16, VRING_DESC_NEXT, 1);
    desc(&t[1], BASE + 512, 512, W | VRING_DESC_NEXT, 2);
    desc(&t[2], BASE + 16, 1, W, 0);
    desc(&r->desc[0], addr, len, VRING_DESC_INDIRECT | flags, 1);
    desc(&r->desc[1], BASE + 16, 1, W, 0);
    guest_offer(r, 0);
    return t;
}

static void table_good(void)
{
    table(TABLE, 48, 0);
}

static void table_and_more(void)
{
    table(TABLE, 48, VRING_DESC_NEXT);
}

static void table_of_nothing(void)
{
    table(TABLE, 0, 0);
}

static void table_odd(void)
{
    table(TABLE, 47, 0);
}

static void table_outside(void)
{
    table(END - 16, 48, 0);
}

static void table_huge(void)
{
    table(TABLE, 0xfffffff0, 0);
}

static void table_nested(void)
{
    desc(&table(TABLE, 48, 0)[1], TABLE, 48, VRING_DESC_INDIRECT, 0);
}

static void table_circle(void)
{
    desc(&table(TABLE, 48, 0)[2], BASE + 16, 1, W | VRING_DESC_NEXT, 1);
}

static void table_next_out(void)
{
    desc(&table(TABLE, 48, 0)[1], BASE + 512, 512, W | VRING_DESC_NEXT, 3);
}

static void table_too_long(void)
{
    struct vring_desc *t = table(TABLE, 16 * 300, 0);
    for (unsigned i = 1; i < 299; i++)
        desc(&t[i], BASE + 16384, 512, W | VRING_DESC_NEXT, i + 1);
    desc(&t[299], BASE + 16, 1, W, 0);
}

static const struct {
    const char *name;
    void (*make)(void);
    int expected;
} rings[] = {
    {"to itself", to_itself, BROKEN},
    {"in a circle", in_a_circle, BROKEN},
    {"next out of range", next_out_of_range, BROKEN},
    {"next far out", next_far_out, BROKEN},
    {"head out of range", head_out_of_range, BROKEN},
    {"head far out", head_far_out, BROKEN},
    {"the index jumps", index_jumps, BROKEN},
    {"the index jumps far", index_jumps_far, BROKEN},
    {"the index goes back", index_goes_back, BROKEN},
    {"a good table", table_good, 0},
    {"a table and more", table_and_more, BROKEN},
    {"a table of nothing", table_of_nothing, BROKEN},
    {"an odd table", table_odd, BROKEN},
    {"a table outside", table_outside, BROKEN},
    {"a huge table", table_huge, BROKEN},
    {"a table in a table", table_nested, BROKEN},
    {"a circle in a table", table_circle, BROKEN},
    {"a table's next out of range", table_next_out, BROKEN},
    {"a table that is too long", table_too_long, BROKEN},
};

static void co_rings(void *arg)
{
    (void)arg;
    co_setup();
    for (unsigned i = 0; i < ARRAY_LEN(rings); i++) {
        co_boot(INDIRECT);
        rings[i].make();
        co_judge(rings[i].name, rings[i].expected);
    }
    co_teardown();
}

/* A queue that breaks publishes what it had taken, and takes nothing more. */
static void co_breaks_under_load(void *arg)
{
    uint32_t id;
    (void)arg;
    co_setup();
    co_boot(0);
    memdisk_hold(disk, MEM_READ);
    for (unsigned i = 0; i < 3; i++)
        guest_submit(bad, r, i, guest_req(bad, i, VIRTIO_BLK_T_IN, 8 * i), 512, false);
    co_turns(20);
    head_far_out();
    co_turns(20);
    assert_true(queue()->ring.broken);
    guest_submit(bad, r, 3, guest_req(bad, 3, VIRTIO_BLK_T_IN, 0), 512, false);
    co_good_runs_on();
    memdisk_release(disk);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(co_guest_used(r), 4 * i);
    co_turns(50);
    assert_false(guest_used(r, &id));
    assert_int_equal(co_guest_stop(bad, 0), 3);
    co_teardown();
}

/* The memory table goes while requests are on their way: they end where they began. */
static void co_table_changes(void *arg)
{
    struct vhost_user_memory none = {0};
    (void)arg;
    co_setup();
    co_boot(0);
    memdisk_hold(disk, MEM_READ);
    guest_submit(bad, r, 0, guest_req(bad, 0, VIRTIO_BLK_T_IN, 0), 512, false);
    co_turns(20);
    co_guest_send(bad, VHOST_USER_SET_MEM_TABLE, 0, &none, sizeof(none), NULL, 0);
    co_turns(50);
    guest_submit(bad, r, 1, guest_req(bad, 1, VIRTIO_BLK_T_IN, 0), 512, false);
    co_turns(50);
    assert_true(queue()->ring.broken); /* nothing of the second can be found */
    memdisk_release(disk);
    assert_int_equal(co_guest_used(r), 0);
    assert_int_equal(*guest_req(bad, 5, 0, 0).status, 0xee);
    co_good_runs_on();
    co_teardown();
}

/* ---- Messages --------------------------------------------------------------------------------- */

static const struct {
    uint32_t request;
    unsigned len, handles;
    uint64_t word[6]; /* the payload */
    uint64_t handle[2];
} messages[] = {
    {0, 0, 0, {0}, {0}},
    {99, 8, 0, {0}, {0}},
    {UINT32_MAX, 0, 0, {0}, {0}},
    {VHOST_USER_SET_FEATURES, 7, 0, {0}, {0}},
    {VHOST_USER_SET_VRING_NUM, 8, 0, {0}, {0}},               /* no entries */
    {VHOST_USER_SET_VRING_NUM, 8, 0, {3ull << 32}, {0}},      /* 3 */
    {VHOST_USER_SET_VRING_NUM, 8, 0, {2048ull << 32}, {0}},   /* too many */
    {VHOST_USER_SET_VRING_NUM, 8, 0, {16ull << 32 | 1}, {0}}, /* of no queue */
    {VHOST_USER_SET_VRING_NUM, 4, 0, {0}, {0}},               /* half a message */
    {VHOST_USER_SET_VRING_BASE, 8, 0, {1ull << 48}, {0}},     /* no index */
    {VHOST_USER_SET_VRING_BASE, 8, 0, {UINT32_MAX}, {0}},     /* of no queue */
    {VHOST_USER_SET_VRING_ADDR, 40, 0, {64}, {0}},            /* of no queue */
    {VHOST_USER_SET_VRING_ADDR, 39, 0, {0}, {0}},
    {VHOST_USER_SET_VRING_KICK, 8, 1, {200}, {0}},
    {VHOST_USER_SET_VRING_CALL, 8, 1, {1}, {0}},
    {VHOST_USER_SET_VRING_CALL, 8, 1, {0}, {UINT64_MAX}},
    {VHOST_USER_SET_VRING_ENABLE, 8, 0, {9}, {0}},
    {VHOST_USER_GET_VRING_BASE, 8, 0, {9}, {0}},
    {VHOST_USER_GET_VRING_BASE, 2, 0, {0}, {0}},
    {VHOST_USER_GET_CONFIG, 12, 0, {60ull << 32}, {0}},      /* without room for it */
    {VHOST_USER_GET_CONFIG, 20, 0, {8ull << 32 | 255}, {0}}, /* behind the end */
    {VHOST_USER_GET_CONFIG, 20, 0, {UINT64_MAX}, {0}},
    {VHOST_USER_SET_CONFIG, 13, 0, {257ull << 32}, {0}},
    {VHOST_USER_SET_MEM_TABLE, 8, 0, {9}, {0}},                           /* too many regions */
    {VHOST_USER_SET_MEM_TABLE, 8, 0, {1}, {0}},                           /* and none there */
    {VHOST_USER_SET_MEM_TABLE, 40, 0, {1, 0, 4096, 0, 0}, {0}},           /* no handle */
    {VHOST_USER_SET_MEM_TABLE, 40, 1, {1, 0, 4096, 0, GUEST_BYTES}, {0}}, /* outside */
    {VHOST_USER_SET_MEM_TABLE, 40, 1, {1, 0, 8192, 0, GUEST_BYTES - 4096}, {0}},
    {VHOST_USER_SET_MEM_TABLE, 40, 1, {1, 0, UINT64_MAX, 0, 4096}, {0}},
    {VHOST_USER_SET_MEM_TABLE, 40, 1, {1, UINT64_MAX - 4095, 8192, 0, 0}, {0}},
    {VHOST_USER_SET_MEM_TABLE, 40, 1, {1, 0, 8192, UINT64_MAX - 4095, 0}, {0}},
    {VHOST_USER_SET_MEM_TABLE, 40, 1, {1, 0, 4096, 0, 8}, {0}}, /* not of pages */
    {VHOST_USER_SET_MEM_TABLE, 40, 1, {1, 0, 0, 0, 0}, {0}},    /* of nothing */
    {VHOST_USER_SET_MEM_TABLE, 40, 1, {1, 0, 4096, 0, 0}, {7}}, /* what handle? */
};

static void co_until_on(bool on)
{
    for (unsigned i = 0; bad->on != on; i++) {
        assert_true(i < GUEST_WAIT);
        co_reschedule();
    }
}

static void co_messages(void *arg)
{
    (void)arg;
    co_setup();
    for (unsigned i = 0; i < ARRAY_LEN(messages); i++) {
        uint8_t p[48];
        unsigned throws = bad->throws;
        for (unsigned k = 0; k < 6; k++)
            le64_set((le64 *)(void *)(p + 8 * k), messages[i].word[k]);
        co_boot(0);
        co_guest_send(bad, messages[i].request, 0, p, messages[i].len, messages[i].handle,
                      messages[i].handles);
        for (unsigned n = 0; bad->throws == throws; n++) {
            if (n > GUEST_WAIT)
                fail_msg("message %u was taken", i);
            co_reschedule();
        }
        co_good_runs_on();
        co_until_on(true);
    }
    co_boot(0);
    co_guest_well(bad, r, 1);
    co_teardown();
}

/* With NEED_REPLY the front end is told instead, and stays. */
static void co_refusals(void *arg)
{
    uint8_t none[8] = {9};
    (void)arg;
    co_setup();
    co_boot(0);
    unsigned throws = bad->throws;
    co_guest_send(bad, VHOST_USER_SET_MEM_TABLE, VHOST_USER_NEED_REPLY, none, 8, NULL, 0);
    co_turns(200);
    assert_true(bad->replied);
    assert_int_equal(bad->reply[12], 1);
    assert_int_equal(bad->throws, throws);
    co_teardown();
}

/* Configuration: writes of anything but the cache mode change nothing. */
static void co_config_writes(void *arg)
{
    static const struct {
        uint32_t off, len;
        uint8_t value;
    } t[] = {{0, 8, 0},  {31, 1, 0}, {33, 1, 0},  {32, 2, 0},
             {32, 1, 2}, {59, 1, 1}, {100, 4, 1}, {32, 0, 0}};
    (void)arg;
    co_setup();
    co_boot(0);
    unsigned throws = bad->throws;
    for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
        uint8_t p[12 + 8] = {[12] = t[i].value};
        le32_set((le32 *)(void *)p, t[i].off);
        le32_set((le32 *)(void *)(p + 4), t[i].len);
        co_guest_send(bad, VHOST_USER_SET_CONFIG, 0, p, 12 + t[i].len, NULL, 0);
        co_turns(30);
        assert_true(sibling_by_name("g0")->vhost.disk.writeback);
    }
    assert_int_equal(bad->throws, throws);
    co_guest_well(bad, r, 1);
    co_teardown();
}

/* Rings in places that do not exist: reported, never started; the front end may put them right. */
static void co_places(void *arg)
{
    static const uint64_t places[][3] = {
        {0, 4096, 8192},
        {GUEST_USER + 8, GUEST_USER + 4096, GUEST_USER + 8192}, /* not aligned */
        {GUEST_USER, GUEST_USER + 4097, GUEST_USER + 8192},
        {GUEST_USER, GUEST_USER + 4096, GUEST_USER + 8194},
        {GUEST_USER + GUEST_BYTES - 16, GUEST_USER + 4096, GUEST_USER + 8192},
        {GUEST_USER + GUEST_BYTES / 2 - 16, GUEST_USER + 4096, GUEST_USER + 8192},
        {GUEST_BASE, GUEST_BASE + 4096, GUEST_BASE + 8192}, /* guest addresses */
        {UINT64_MAX - 15, UINT64_MAX - 1, UINT64_MAX - 3},
    };
    (void)arg;
    co_setup();
    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        struct vhost_user_vring_addr a = {0};
        le64 index = {{0}};
        co_boot(0);
        assert_int_equal(co_guest_stop(bad, 0), 0);
        le64_set(&a.desc, places[i][0]);
        le64_set(&a.avail, places[i][1]);
        le64_set(&a.used, places[i][2]);
        co_guest_send(bad, VHOST_USER_SET_VRING_ADDR, 0, &a, sizeof(a), NULL, 0);
        co_guest_send(bad, VHOST_USER_SET_VRING_KICK, 0, &index, 8, NULL, 0);
        co_guest_state(bad, VHOST_USER_SET_VRING_ENABLE, 0, 1);
        co_turns(50);
        assert_int_equal(queue()->state, VDISK_CLOSED);
        co_good_runs_on();
        co_guest_start(bad, 0, 0);
        co_guest_well(bad, r, i);
        co_guest_disconnect(bad);
    }
    co_teardown();
}

/* ---- The relay -------------------------------------------------------------------------------- */

static void co_nonsense(void *arg)
{
    static const struct bridge_frame good_head = {.magic = {{0x53, 0x52, 0x62, 0x72}},
                                                  .kind = {{BRIDGE_DISCONNECTED}}};
    (void)arg;
    co_setup();
    for (unsigned i = 0; i < 12; i++) {
        struct bridge_frame h = good_head;
        unsigned hellos = bridge_hellos;
        uint8_t *at = (uint8_t *)&h;
        static const uint8_t what[12][2] = {{0, 1},
                                            {4, 0},
                                            {4, 99},
                                            {5, 1},
                                            {6, 0xff},
                                            {8, 1},
                                            {11, 1},
                                            {12, 1},
                                            {14, 1},
                                            {4, BRIDGE_EXPORT},
                                            {4, BRIDGE_HELLO},
                                            {4, BRIDGE_BACKEND}};
        at[what[i][0]] = what[i][1];
        if (what[i][0] == 6)
            at[7] = 0xff;
        co_bridge_bytes(&h, sizeof(h));
        for (unsigned n = 0; bridge_hellos == hellos; n++) {
            if (n > GUEST_WAIT)
                fail_msg("frame %u was taken", i);
            co_reschedule();
        }
        for (unsigned n = 0; !good->on || !bad->on; n++) {
            assert_true(n < GUEST_WAIT);
            co_reschedule();
        }
        co_guest_boot(good, FLUSH, 1);
        co_good_runs_on();
    }
    co_teardown();
}

#define RUN(name)                     \
    static void test_##name(void **s) \
    {                                 \
        (void)s;                      \
        test_co_run(co_##name, NULL); \
    }
RUN(chains)
RUN(bad_requests)
RUN(rings)
RUN(breaks_under_load)
RUN(table_changes)
RUN(messages)
RUN(refusals)
RUN(config_writes)
RUN(places)
RUN(nonsense)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chains),        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_rings),         cmocka_unit_test(test_breaks_under_load),
        cmocka_unit_test(test_table_changes), cmocka_unit_test(test_messages),
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_config_writes),
        cmocka_unit_test(test_places),        cmocka_unit_test(test_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
