/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the bridge, a sibling's QEMU, and a sibling can say. An input is a program, a byte per step and
 * its arguments:
 *
 *     0  bytes into the relay                  6  CONNECTED
 *     1  a vhost-user message                  7  DISCONNECTED
 *     2  bytes into the sibling's memory       8  REPLAYED
 *     3  the messages of a good start          9  a request in the ring, with one field changed
 *     4  turns of the loop                    10  END
 *     5  the available index moves
 *
 * Whatever it says: every request ends, nothing outside of the sibling's memory is touched, and the
 * relay ends when the stream does.
 */
#include "tests/unit/support_duplex.c"

#include "kernel/kernel.h"
#include "virtio/device/sibling.h"
#include "tests/fuzz/support_boot.h"

#define TURNS  100000u
#define MEMORY 65536u
#define RING   16u
#define GUEST  0x10000u    /* its memory, as it sees it, */
#define USER   0x40000000u /* and as its QEMU does */

static struct input {
    const uint8_t *p;
    size_t n;
} in;
static uint8_t *memory;
static struct stream *bridge;
static uint16_t avail;
static bool ended, closed;
static unsigned interrupts;

static uint8_t byte(void)
{
    if (!in.n)
        return 0;
    in.n--;
    return *in.p++;
}

static uint64_t number(void)
{
    unsigned how = byte();
    uint64_t v = 0;
    if (how < 200)
        return how;
    for (unsigned i = 0; i < 1 + how % 8; i++)
        v = v << 8 | byte();
    return v;
}

static void co_say(enum bridge_kind kind, const void *p, size_t n, const uint64_t *handle,
                   unsigned handles)
{
    uint8_t frame[BRIDGE_FRAME_MAX];
    struct bridge_frame h = {0};
    bool itself = kind == BRIDGE_HELLO || kind == BRIDGE_END;
    le32_set(&h.magic, BRIDGE_MAGIC);
    le16_set(&h.kind, (uint16_t)kind);
    le16_set(&h.sibling, itself ? BRIDGE_ITSELF : 0);
    le32_set(&h.len, (uint32_t)n);
    le16_set(&h.handles, (uint16_t)handles);
    memcpy(frame, &h, sizeof(h));
    for (unsigned i = 0; i < handles; i++)
        le64_set((le64 *)(void *)(frame + sizeof(h) + 8 * i), handle[i]);
    if (n)
        memcpy(frame + sizeof(h) + 8 * handles, p, n);
    (void)co_stream_write(bridge, frame, sizeof(h) + 8 * handles + n);
}

static void co_message(uint32_t request, uint32_t flags, const void *p, size_t n,
                       const uint64_t *handle, unsigned handles)
{
    uint8_t m[BRIDGE_PAYLOAD];
    struct vhost_user_header h;
    le32_set(&h.request, request);
    le32_set(&h.flags, flags);
    le32_set(&h.size, (uint32_t)n);
    memcpy(m, &h, sizeof(h));
    if (n)
        memcpy(m + sizeof(h), p, n);
    co_say(BRIDGE_VHOST, m, sizeof(h) + n, handle, handles);
}

static void co_words(uint32_t request, const uint64_t *w, unsigned n)
{
    static const uint64_t zero = 0;
    bool one = request == VHOST_USER_SET_MEM_TABLE || request == VHOST_USER_SET_VRING_KICK;
    le64 p[8];
    for (unsigned i = 0; i < n; i++)
        le64_set(&p[i], w[i]);
    co_message(request, VHOST_USER_VERSION, p, 8 * n, &zero, one);
}
#define WORDS(request, ...) \
    co_words(request, (const uint64_t[]){__VA_ARGS__}, sizeof((uint64_t[]){__VA_ARGS__}) / 8)

static void co_connected(bool resumed)
{
    struct bridge_connected c = {0};
    le32_set(&c.resumed, resumed);
    co_say(BRIDGE_CONNECTED, &c, sizeof(c), NULL, 0);
}

static void co_good_start(void)
{
    uint64_t own = byte();
    WORDS(VHOST_USER_SET_FEATURES, 1ull << VIRTIO_F_VERSION_1 |
                                       (own & 3) << VIRTIO_F_INDIRECT_DESC |
                                       (own >> 2 & 1) << VIRTIO_BLK_F_FLUSH);
    WORDS(VHOST_USER_SET_MEM_TABLE, 1, GUEST, MEMORY, USER, 0);
    WORDS(VHOST_USER_SET_VRING_NUM, (uint64_t)RING << 32);
    WORDS(VHOST_USER_SET_VRING_BASE, (uint64_t)avail << 32);
    WORDS(VHOST_USER_SET_VRING_ADDR, 0, USER, USER + 8192, USER + 4096, 0);
    WORDS(VHOST_USER_SET_VRING_KICK, 0);
}

static void co_any_message(void)
{
    uint8_t p[256];
    uint64_t handle[BRIDGE_HANDLES];
    uint32_t request = byte(), flags = byte();
    unsigned n = byte(), handles = byte() % (BRIDGE_HANDLES + 1);
    for (unsigned i = 0; i < handles; i++)
        handle[i] = number();
    for (unsigned i = 0; i < n; i++)
        p[i] = byte();
    co_message(request, flags, p, n, handle, handles);
}

static void co_raw(void)
{
    uint8_t p[64];
    unsigned n = byte() % sizeof(p);
    for (unsigned i = 0; i < n; i++)
        p[i] = byte();
    (void)co_stream_write(bridge, p, n);
}

static void move_available(void)
{
    avail = (uint16_t)(avail + number());
    vring_store(&((struct vring_avail *)(void *)(memory + 4096))->idx, avail);
}

static void poke(void)
{
    size_t at = number() % MEMORY;
    unsigned n = byte() % 32;
    for (unsigned i = 0; i < n; i++)
        memory[(at + i) % MEMORY] = byte();
}

/* Header, data, status, in three descriptors; then something about it is not as it should be. */
static void request(void)
{
    struct vring_desc *d = (struct vring_desc *)(void *)memory;
    struct vring_avail *a = (struct vring_avail *)(void *)(memory + 4096);
    unsigned head = byte() % RING, what = byte() % 16;
    static const uint32_t len[3] = {16, 1024, 1};
    uint64_t value = what ? number() : 0;
    uint32_t type = byte();
    memset(memory + 16384, 0, 16);
    memory[16384] = (uint8_t)type;
    memory[16384 + 8] = byte();
    for (unsigned i = 0; i < 3; i++) {
        struct vring_desc *x = &d[(head + i) % RING];
        unsigned write = i == 2 || (i == 1 && type != VIRTIO_BLK_T_OUT && type < 11);
        le64_set(&x->addr, GUEST + 16384 + 2048 * i);
        le32_set(&x->len, len[i]);
        le16_set(&x->flags, (uint16_t)((i < 2) | write << 1));
        le16_set(&x->next, (uint16_t)((head + i + 1) % RING));
    }
    struct vring_desc *x = &d[(head + what % 3) % RING];
    if (what && what < 4)
        le64_set(&x->addr, value);
    else if (what && what < 8)
        le32_set(&x->len, (uint32_t)value);
    else if (what && what < 12)
        le16_set(&x->flags, (uint16_t)value);
    else if (what)
        le16_set(&x->next, (uint16_t)value);
    le16_set(&a->ring[avail % RING], (uint16_t)head);
    vring_store(&a->idx, ++avail);
}

static void co_step(void)
{
    switch (byte() % 11) {
    case 0:
        co_raw();
        break;
    case 1:
        co_any_message();
        break;
    case 2:
        poke();
        break;
    case 3:
        co_good_start();
        break;
    case 4:
        for (unsigned i = byte() % 32; i; i--)
            co_reschedule();
        break;
    case 5:
        move_available();
        break;
    case 6:
        co_connected(byte() & 1);
        break;
    case 7:
        co_say(BRIDGE_DISCONNECTED, NULL, 0, NULL, 0);
        break;
    case 8:
        co_say(BRIDGE_REPLAYED, NULL, 0, NULL, 0);
        break;
    case 9:
        request();
        break;
    default:
        co_say(BRIDGE_END, NULL, 0, NULL, 0);
    }
}

static void co_greet(void)
{
    struct bridge_hello h = {0};
    struct bridge_sibling b = {.name = "s"};
    le32_set(&h.version, BRIDGE_VERSION);
    le64_set(&b.memory, MEMORY);
    co_say(BRIDGE_HELLO, &h, sizeof(h), NULL, 0);
    co_say(BRIDGE_SIBLING, &b, sizeof(b), NULL, 0);
    co_connected(false);
}

/* Takes what our side says, as fast as it comes. */
static void co_hear(void *arg)
{
    uint8_t b[64];
    (void)arg;
    while (!co_stream_wait(bridge, 1, STREAM_FOREVER)) {
        size_t n = MIN(bridge->ops->available(bridge), sizeof(b));
        bridge->ops->copy(bridge, b, n, true);
    }
    closed = true;
}

static void co_one(void *arg)
{
    static struct co_start relay, listen;
    struct stream *end[2];
    (void)arg;
    duplex_open(end, &(struct duplex_options){0});
    bridge = end[0];
    closed = false;
    co_start(&relay, co_relay, end[1]);
    co_start(&listen, co_hear, NULL);
    co_greet();
    while (in.n)
        co_step();
    for (unsigned i = 0; i < 20; i++)
        co_reschedule();
    stream_abort(bridge);
    while (!closed)
        co_reschedule();
    co_stream_close(bridge);
    while (duplex_ends || !vhost_at_rest(&sibling_by_name("s")->vhost))
        co_reschedule();
    ended = true;
}

static void ring(struct sibling_link *l, uint32_t call)
{
    (void)l, (void)call;
    interrupts++;
}

static void co_prepare(void *arg)
{
    static const char node[] = "null-co,node-name=n,size=64K,read-zeroes=on";
    static const char export[] = "vhost-user-blk,id=e,node-name=n,sibling=s,writable=on";
    static struct sibling_link at = {.size = MEMORY, .vectors = 1, .ring = ring};
    struct error err = {0};
    struct node *n;
    (void)arg;
    at.memory = memory = aligned_alloc(4096, MEMORY);
    sibling_link_announce(&at);
    struct value *v = schema_parse_keyval(node, "driver", &err);
    if (co_node_open(v, true, true, &n, &err))
        panic("%s", err.msg);
    value_free(v);
    v = schema_parse_keyval(export, "type", &err);
    if (co_export_add(v, true, &err))
        panic("%s", err.msg);
    value_free(v);
    ended = true;
}

static void until_ended(co_fn *fn)
{
    static struct co_start start;
    ended = false;
    co_start(&start, fn, NULL);
    for (unsigned i = 0; !ended; i++) {
        if (i > TURNS)
            panic("it does not end");
        loop_turn();
    }
    loop_turn();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fuzz_boot(32);
    until_ended(co_prepare);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    in = (struct input){p, n};
    memset(memory, 0, MEMORY);
    avail = 0;
    until_ended(co_one);
    return 0;
}
