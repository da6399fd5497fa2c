/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/support_sibling.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct guest guest[GUESTS];
unsigned bridge_hellos;

static struct stream *end[2];
static struct co_start relay_start, reader_start;
static bool reading;
static unsigned announced;

void co_turns(unsigned n)
{
    while (n--)
        co_reschedule();
}

/* ---- The bridge ------------------------------------------------------------------------------- */

void co_bridge_bytes(const void *p, size_t n)
{
    assert_int_equal(co_stream_write(end[0], p, n), 0);
}

void co_bridge_say(enum bridge_kind kind, unsigned sibling, const void *p, size_t n,
                   const uint64_t *handle, unsigned handles, uint16_t tag)
{
    uint8_t frame[BRIDGE_FRAME_MAX];
    struct bridge_frame h = {0};
    le32_set(&h.magic, BRIDGE_MAGIC);
    le16_set(&h.kind, (uint16_t)kind);
    le16_set(&h.sibling, (uint16_t)sibling);
    le32_set(&h.len, (uint32_t)n);
    le16_set(&h.handles, (uint16_t)handles);
    le16_set(&h.tag, tag);
    memcpy(frame, &h, sizeof(h));
    for (unsigned i = 0; i < handles; i++)
        le64_set((le64 *)(void *)(frame + sizeof(h) + 8 * i), handle[i]);
    if (n)
        memcpy(frame + sizeof(h) + 8 * handles, p, n);
    co_bridge_bytes(frame, sizeof(h) + 8 * handles + n);
}

static void co_answer_hello(void)
{
    struct bridge_hello h = {0};
    bridge_hellos++;
    le32_set(&h.version, BRIDGE_VERSION);
    co_bridge_say(BRIDGE_HELLO, BRIDGE_ITSELF, &h, sizeof(h), NULL, 0, 0);
    for (unsigned i = 0; i < announced; i++) {
        struct bridge_sibling b = {0};
        le64_set(&b.memory, guest[i].at.size);
        memcpy(b.name, guest[i].name, strlen(guest[i].name));
        guest[i].on = guest[i].connected = false;
        co_bridge_say(BRIDGE_SIBLING, i, &b, sizeof(b), NULL, 0, 0);
    }
}

static void co_on_export(struct guest *g, const uint8_t *p)
{
    struct bridge_export x;
    memcpy(&x, p, sizeof(x));
    assert_int_equal(le16_get(x.vectors), g->at.vectors);
    g->on = le16_get(x.on);
    if (!g->on)
        g->throws++;
    if (!g->on && g->connected)
        co_guest_disconnect(g);
}

static void co_on_frame(const struct bridge_frame *h, const uint8_t *p)
{
    unsigned kind = le16_get(h->kind), n = le16_get(h->sibling);
    if (kind == BRIDGE_HELLO) {
        co_answer_hello();
        return;
    }
    assert_true(n < announced);
    struct guest *g = &guest[n];
    if (kind == BRIDGE_EXPORT) {
        co_on_export(g, p);
    } else if (kind == BRIDGE_BACKEND) {
        g->changes++;
    } else {
        assert_int_equal(kind, BRIDGE_VHOST);
        memcpy(g->reply, p, le32_get(h->len));
        g->reply_len = le32_get(h->len);
        g->tag = le16_get(h->tag);
        g->replied = true;
    }
}

static void co_read(void *arg)
{
    (void)arg;
    struct bridge_frame h;
    uint8_t payload[BRIDGE_PAYLOAD];
    while (!co_stream_read(end[0], &h, sizeof(h), STREAM_FOREVER)) {
        assert_int_equal(le32_get(h.magic), BRIDGE_MAGIC);
        assert_int_equal(le16_get(h.handles), 0);
        assert_true(le32_get(h.len) <= sizeof(payload));
        if (co_stream_read(end[0], payload, le32_get(h.len), STREAM_FOREVER))
            break;
        co_on_frame(&h, payload);
    }
    reading = false;
}

static void ring_guest(struct sibling_link *l, uint32_t call)
{
    assert_int_equal(call >> 16, 1 + l->number);
    container_of(l, struct guest, at)->interrupts++;
}

static void announce(struct guest *g, unsigned number, void *memory, uint64_t size)
{
    g->at = (struct sibling_link){
        .number = number, .memory = memory, .size = size, .vectors = 4, .ring = ring_guest};
    sibling_link_announce(&g->at);
}

void guest_is_us(unsigned n)
{
    guest[n].mem = aligned_alloc(4096, GUEST_BYTES);
    announce(&guest[n], n, (void *)(uintptr_t)ALL_BASE, ALL_BYTES);
}

static void make_guest(unsigned i)
{
    struct guest *g = &guest[i];
    struct sibling_link at = g->at;
    bool old = g->mem;
    uint8_t *mem = old ? g->mem : aligned_alloc(4096, GUEST_BYTES);
    *g = (struct guest){.mem = mem};
    memset(mem, 0, GUEST_BYTES);
    snprintf(g->name, sizeof(g->name), "g%u", i);
    g->at = at;
    if (old)
        return;
    announce(g, i, mem, GUEST_BYTES);
}

void co_bridge_open(unsigned guests)
{
    announced = guests;
    bridge_hellos = 0;
    for (unsigned i = 0; i < guests; i++)
        make_guest(i);
    duplex_open(end, &(struct duplex_options){.segment = 13});
    reading = true;
    co_start(&reader_start, co_read, NULL);
    co_start(&relay_start, co_relay, end[1]);
    for (unsigned i = 0; !bridge_hellos; i++) {
        assert_true(i < GUEST_WAIT);
        co_reschedule();
    }
}

void co_bridge_close(void)
{
    stream_abort(end[0]);
    while (reading)
        co_reschedule();
    co_stream_close(end[0]);
    while (duplex_ends)
        co_reschedule();
}

void co_guest_export(unsigned n, const char *node, const char *more)
{
    struct error err = {0};
    char text[160];
    snprintf(text, sizeof(text), "vhost-user-blk,id=e%u,node-name=%s,sibling=g%u,writable=on%s", n,
             node, n, more);
    struct value *def = schema_parse_keyval(text, "type", &err);
    assert_non_null(def);
    if (co_export_add(def, true, &err))
        fail_msg("%s", err.msg);
    value_free(def);
    for (unsigned i = 0; n < announced && !guest[n].on; i++) {
        assert_true(i < GUEST_WAIT);
        co_reschedule();
    }
}

void co_guest_unexport(unsigned n)
{
    char id[16];
    snprintf(id, sizeof(id), "e%u", n);
    co_export_del(export_find(id), board_clock_ns() + 1000000000ull);
}

/* ---- QEMU ------------------------------------------------------------------------------------- */

void co_guest_connect(struct guest *g, bool resumed)
{
    struct bridge_connected c = {0};
    le32_set(&c.resumed, resumed);
    g->connected = true;
    co_bridge_say(BRIDGE_CONNECTED, g->at.number, &c, sizeof(c), NULL, 0, 0);
}

void co_guest_disconnect(struct guest *g)
{
    g->connected = false;
    co_bridge_say(BRIDGE_DISCONNECTED, g->at.number, NULL, 0, NULL, 0, 0);
}

void co_guest_send(struct guest *g, uint32_t request, uint32_t flags, const void *p, size_t n,
                   const uint64_t *handle, unsigned handles)
{
    uint8_t m[BRIDGE_PAYLOAD];
    struct vhost_user_header h;
    assert_true(n <= sizeof(m) - sizeof(h));
    le32_set(&h.request, request);
    le32_set(&h.flags, VHOST_USER_VERSION | flags);
    le32_set(&h.size, (uint32_t)n);
    memcpy(m, &h, sizeof(h));
    if (n)
        memcpy(m + sizeof(h), p, n);
    g->replied = false;
    co_bridge_say(BRIDGE_VHOST, g->at.number, m, sizeof(h) + n, handle, handles,
                  (uint16_t)(0x100 + request));
}

static size_t co_await (struct guest *g, uint32_t request)
{
    struct vhost_user_header h;
    for (unsigned i = 0; !g->replied; i++) {
        if (i > GUEST_WAIT)
            fail_msg("%s: no reply to %u", g->name, request);
        co_reschedule();
    }
    memcpy(&h, g->reply, sizeof(h));
    assert_int_equal(g->tag, 0x100 + request);
    assert_int_equal(le32_get(h.request), request);
    assert_int_equal(le32_get(h.flags), VHOST_USER_VERSION | VHOST_USER_REPLY);
    assert_int_equal(le32_get(h.size), g->reply_len - sizeof(h));
    memmove(g->reply, g->reply + sizeof(h), g->reply_len - sizeof(h));
    return g->reply_len - sizeof(h);
}

size_t co_guest_ask(struct guest *g, uint32_t request, const void *p, size_t n)
{
    co_guest_send(g, request, 0, p, n, NULL, 0);
    return co_await (g, request);
}

uint64_t co_guest_ask_u64(struct guest *g, uint32_t request)
{
    le64 v;
    assert_int_equal(co_guest_ask(g, request, NULL, 0), 8);
    memcpy(&v, g->reply, sizeof(v));
    return le64_get(v);
}

void co_guest_u64(struct guest *g, uint32_t request, uint64_t value)
{
    le64 v;
    le64_set(&v, value);
    co_guest_send(g, request, 0, &v, sizeof(v), NULL, 0);
}

void co_guest_state(struct guest *g, uint32_t request, uint32_t index, uint32_t num)
{
    struct vhost_user_vring_state s;
    le32_set(&s.index, index);
    le32_set(&s.num, num);
    co_guest_send(g, request, 0, &s, sizeof(s), NULL, 0);
}

void co_guest_memory(struct guest *g)
{
    struct {
        struct vhost_user_memory head;
        struct vhost_user_region region[3];
    } m = {0};
    static const uint64_t handle[3] = {0, BRIDGE_ELSEWHERE, 0};
    static const uint64_t at[3][4] = {/* guest, size, user, offset: two halves and something else */
                                      {GUEST_BASE, GUEST_BYTES / 2, GUEST_USER, 0},
                                      {GUEST_BASE << 4, 4096, GUEST_USER << 1, 0},
                                      {GUEST_BASE + GUEST_BYTES / 2, GUEST_BYTES / 2,
                                       GUEST_USER + GUEST_BYTES / 2, GUEST_BYTES / 2}};
    le32_set(&m.head.count, 3);
    for (unsigned i = 0; i < 3; i++) {
        le64_set(&m.region[i].guest_addr, at[i][0]);
        le64_set(&m.region[i].size, at[i][1]);
        le64_set(&m.region[i].user_addr, at[i][2]);
        le64_set(&m.region[i].offset, at[i][3]);
    }
    co_guest_send(g, VHOST_USER_SET_MEM_TABLE, VHOST_USER_NEED_REPLY, &m, sizeof(m), handle, 3);
    assert_int_equal(co_await (g, VHOST_USER_SET_MEM_TABLE), 8);
    assert_int_equal(g->reply[0], 0);
}

/* Rings lie in the second half of memory, 16 KiB each. */
static void place(struct guest *g, unsigned queue)
{
    uint8_t *at = g->mem + GUEST_BYTES - 65536 + queue * 16384;
    memset(at, 0, 16384);
    g->ring[queue] = (struct ring){.index = queue,
                                   .desc = (void *)at,
                                   .avail = (void *)(at + 4096),
                                   .used = (void *)(at + 8192)};
}

void co_guest_start(struct guest *g, unsigned queue, uint16_t base)
{
    struct ring *r = &g->ring[queue];
    struct vhost_user_vring_addr a = {0};
    uint64_t vector = 0, call = (1 + g->at.number) << 16 | queue;
    le64 index;
    co_guest_state(g, VHOST_USER_SET_VRING_NUM, queue, GUEST_RING);
    co_guest_state(g, VHOST_USER_SET_VRING_BASE, queue, base);
    le32_set(&a.index, queue);
    le64_set(&a.desc, guest_addr(g, r->desc) - GUEST_BASE + GUEST_USER);
    le64_set(&a.avail, guest_addr(g, r->avail) - GUEST_BASE + GUEST_USER);
    le64_set(&a.used, guest_addr(g, r->used) - GUEST_BASE + GUEST_USER);
    co_guest_send(g, VHOST_USER_SET_VRING_ADDR, 0, &a, sizeof(a), NULL, 0);
    le64_set(&index, queue);
    co_guest_send(g, VHOST_USER_SET_VRING_CALL, 0, &index, sizeof(index), &call, 1);
    co_guest_send(g, VHOST_USER_SET_VRING_KICK, 0, &index, sizeof(index), &vector, 1);
    co_guest_state(g, VHOST_USER_SET_VRING_ENABLE, queue, 1);
}

uint16_t co_guest_stop(struct guest *g, unsigned queue)
{
    struct vhost_user_vring_state s = {0};
    co_guest_state(g, VHOST_USER_SET_VRING_ENABLE, queue, 0);
    le32_set(&s.index, queue);
    assert_int_equal(co_guest_ask(g, VHOST_USER_GET_VRING_BASE, &s, sizeof(s)), sizeof(s));
    memcpy(&s, g->reply, sizeof(s));
    assert_int_equal(le32_get(s.index), queue);
    return (uint16_t)le32_get(s.num);
}

void co_guest_boot(struct guest *g, uint64_t features, unsigned queues)
{
    uint64_t always = 1ull << VIRTIO_F_VERSION_1 | 1ull << VHOST_USER_F_PROTOCOL_FEATURES;
    co_guest_connect(g, false);
    assert_int_equal(co_guest_ask_u64(g, VHOST_USER_GET_FEATURES) & always, always);
    co_guest_u64(g, VHOST_USER_SET_PROTOCOL_FEATURES,
                 co_guest_ask_u64(g, VHOST_USER_GET_PROTOCOL_FEATURES));
    co_guest_u64(g, VHOST_USER_SET_FEATURES, always | features);
    co_guest_memory(g);
    for (unsigned i = 0; i < queues; i++) {
        place(g, i);
        co_guest_start(g, i, 0);
    }
}

/* ---- Its rings -------------------------------------------------------------------------------- */

void guest_offer(struct ring *r, uint16_t head)
{
    le16_set(&r->avail->ring[r->next % GUEST_RING], head);
    vring_store(&r->avail->idx, ++r->next);
}

void guest_chain(struct ring *r, unsigned head, const struct part *p, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct vring_desc *d = &r->desc[(head + i) % GUEST_RING];
        le64_set(&d->addr, p[i].addr);
        le32_set(&d->len, p[i].len);
        le16_set(&d->flags, p[i].flags | (i + 1 < n ? VRING_DESC_NEXT : 0));
        le16_set(&d->next, (uint16_t)((head + i + 1) % GUEST_RING));
    }
    guest_offer(r, (uint16_t)head);
}

struct guest_req guest_req(struct guest *g, unsigned n, uint32_t type, uint64_t sector)
{
    uint8_t *at = g->mem + 32768 * (size_t)n;
    struct guest_req q = {(void *)at, at + 512, at + 16};
    le32_set(&q.head->type, type);
    le32_set(&q.head->reserved, 0);
    le64_set(&q.head->sector, sector);
    *q.status = 0xee;
    return q;
}

void guest_submit(struct guest *g, struct ring *r, unsigned n, struct guest_req q, size_t len,
                  bool write)
{
    uint16_t in = write ? 0 : VRING_DESC_WRITE;
    struct part p[4] = {{guest_addr(g, q.head), sizeof(*q.head), 0}};
    unsigned count = 1;
    if (len > 512)
        p[count++] = (struct part){guest_addr(g, q.data), 512, in};
    if (len)
        p[count++] = (struct part){guest_addr(g, q.data) + (len > 512 ? 512 : 0),
                                   (uint32_t)(len > 512 ? len - 512 : len), in};
    p[count++] = (struct part){guest_addr(g, q.status), 1, VRING_DESC_WRITE};
    guest_chain(r, 4 * n, p, count);
}

bool guest_used(struct ring *r, uint32_t *id)
{
    if (vring_load(&r->used->idx) == r->seen)
        return false;
    *id = le32_get(r->used->ring[r->seen++ % GUEST_RING].id);
    return true;
}

uint32_t co_guest_used(struct ring *r)
{
    uint32_t id;
    for (unsigned i = 0; !guest_used(r, &id); i++) {
        if (i > GUEST_WAIT)
            fail_msg("queue %u: nothing was used", r->index);
        co_reschedule();
    }
    return id;
}

unsigned co_guest_do(struct guest *g, struct ring *r, uint32_t type, uint64_t sector, void *data,
                     size_t len)
{
    struct guest_req q = guest_req(g, 0, type, sector);
    bool write = type != VIRTIO_BLK_T_IN && type != VIRTIO_BLK_T_GET_ID;
    if (write && len)
        memcpy(q.data, data, len);
    guest_submit(g, r, 0, q, len, write);
    assert_int_equal(co_guest_used(r), 0);
    if (!write)
        memcpy(data, q.data, len);
    return *q.status;
}

void co_guest_well(struct guest *g, struct ring *r, unsigned seed)
{
    uint8_t out[4096], in[4096];
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned k = 0; k < sizeof(out); k++)
            out[k] = (uint8_t)(seed + i + k * 7 + (k >> 8));
        uint64_t sector = 8 * ((seed + i) % 16);
        assert_int_equal(co_guest_do(g, r, VIRTIO_BLK_T_OUT, sector, out, sizeof(out)), 0);
        assert_int_equal(co_guest_do(g, r, VIRTIO_BLK_T_IN, sector, in, sizeof(in)), 0);
        assert_memory_equal(in, out, sizeof(in));
    }
}
