/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Split and packed rings, device's side (virtio 1.2, 2.7 and 2.8). See virtq_split.c and
 * virtq_packed.c for pictures.
 *
 * A chain is walked with a bound on its length, so links in a circle end; an indirect table is one
 * contiguous area that is mapped as a whole, and may not contain another. Descriptors to read come
 * before those to write (2.7.4.2). What is checked is a copy: the driver may change its table while
 * we look. The driver of a packed ring could make available what we have not yet given back: more
 * than `size` descriptors are never taken.
 */
#include "virtio/device/vring.h"

#include "kernel/dma.h"
#include "kernel/error.h"

void *vmemory_at(const struct vmemory *m, uint64_t addr, uint64_t len)
{
    for (unsigned i = 0; i < m->count; i++) {
        const struct vwindow *w = &m->window[i];
        if (addr >= w->base && range_ok(addr - w->base, len, w->len))
            return w->at + (addr - w->base);
    }
    return NULL;
}

static void *area(const struct vmemory *m, uint64_t addr, size_t len, unsigned align)
{
    return is_aligned(addr, align) ? vmemory_at(m, addr, len) : NULL;
}

static void open_split(struct vring *r, uint64_t desc, uint64_t avail, uint64_t used)
{
    r->desc = area(r->memory, desc, VRING_DESC_BYTES(r->size), VRING_DESC_ALIGN);
    r->avail = area(r->memory, avail, VRING_AVAIL_BYTES(r->size), 2);
    r->used = area(r->memory, used, VRING_USED_BYTES(r->size), 4);
}

static void open_packed(struct vring *r, uint64_t desc, uint64_t driver, uint64_t device)
{
    r->ring = area(r->memory, desc, VRING_DESC_BYTES(r->size), VRING_DESC_ALIGN);
    r->driver_event = area(r->memory, driver, sizeof(struct vring_event), VRING_EVENT_ALIGN);
    r->device_event = area(r->memory, device, sizeof(struct vring_event), VRING_EVENT_ALIGN);
}

int vring_open(struct vring *r, const struct vmemory *m, unsigned size, uint64_t desc,
               uint64_t driver, uint64_t device, uint64_t features)
{
    if (!is_pow2(size) || size > VRING_MAX_SIZE)
        return SR_EINVAL;
    *r = (struct vring){.memory = m, .size = (uint16_t)size};
    r->packed = features >> VIRTIO_F_RING_PACKED & 1;
    r->event_idx = features >> VIRTIO_F_EVENT_IDX & 1;
    r->indirect = features >> VIRTIO_F_INDIRECT_DESC & 1;
    if (r->packed)
        open_packed(r, desc, driver, device);
    else
        open_split(r, desc, driver, device);
    return r->desc && r->avail && r->used ? 0 : SR_EINVAL; /* of either kind: three areas */
}

void vring_resume(struct vring *r, uint16_t index)
{
    r->avail_idx = r->used_idx = r->signalled = index;
}

static int broken(struct vring *r)
{
    r->broken = true;
    return SR_EIO;
}

struct piece { /* a descriptor of either kind */
    uint64_t addr;
    uint32_t len;
    bool write;
};

static struct piece piece_of(const struct vring_desc *d)
{
    bool write = le16_get(d->flags) & VRING_DESC_WRITE;
    return (struct piece){le64_get(d->addr), le32_get(d->len), write};
}

static struct piece packed_piece(const struct vring_packed_desc *d)
{
    bool write = le16_get(d->flags) & VRING_DESC_WRITE;
    return (struct piece){le64_get(d->addr), le32_get(d->len), write};
}

/* A chain in the making. It stays in registers; pieces mostly lie in the window of the one before. */
struct gather {
    struct seg *next, *end;
    const struct vwindow *window;
    unsigned nout;
    size_t out_len, in_len;
};

static inline struct gather gather_begin(const struct vring *r, struct vchain *c)
{
    return (struct gather){.next = c->seg, .end = c->seg + VCHAIN_MAX, .window = r->memory->window};
}

static inline void *near(const struct vring *r, struct gather *g, struct piece p)
{
    uint64_t off = p.addr - g->window->base;
    if (likely(r->memory->count && range_ok(off, p.len, g->window->len)))
        return g->window->at + off;
    for (unsigned i = 0; i < r->memory->count; i++) {
        g->window = &r->memory->window[i];
        if (p.addr >= g->window->base && range_ok(p.addr - g->window->base, p.len, g->window->len))
            return g->window->at + (p.addr - g->window->base);
    }
    return NULL;
}

static inline bool add(const struct vring *r, struct gather *g, struct piece p)
{
    void *at = near(r, g, p);
    if (unlikely(!at || !p.len || g->next == g->end || (g->in_len && !p.write)))
        return false;
    *g->next++ = (struct seg){at, p.len};
    if (p.write) {
        g->in_len += p.len;
    } else {
        g->nout++;
        g->out_len += p.len;
    }
    return true;
}

static inline int gathered(const struct gather *g, struct vchain *c)
{
    c->nout = g->nout;
    c->nin = (unsigned)(g->next - c->seg) - g->nout;
    c->out_len = g->out_len;
    c->in_len = g->in_len;
    return 0;
}

/* Both kinds of table have descriptors of this size. */
static void *table_at(struct vring *r, struct piece p, unsigned *size)
{
    *size = p.len / (uint32_t)sizeof(struct vring_desc);
    if (!r->indirect || !p.len || p.len % sizeof(struct vring_desc))
        return NULL;
    return vmemory_at(r->memory, p.addr, p.len);
}

/* ---- Split ----------------------------------------------------------------------------------- */

struct table {
    const struct vring_desc *desc;
    unsigned size;
};

/* Follows the links of one table. */
static int walk(struct vring *r, struct vchain *c, struct table t, unsigned at)
{
    struct gather g = gather_begin(r, c);
    for (unsigned n = 0; n < t.size; n++) {
        if (at >= t.size)
            return broken(r);
        struct vring_desc d = t.desc[at];
        unsigned flags = le16_get(d.flags);
        if (unlikely(flags & VRING_DESC_INDIRECT) || unlikely(!add(r, &g, piece_of(&d))))
            return broken(r);
        if (!(flags & VRING_DESC_NEXT))
            return gathered(&g, c);
        at = le16_get(d.next);
    }
    return broken(r); /* a circle */
}

static int walk_indirect(struct vring *r, struct vchain *c, const struct vring_desc *d)
{
    struct table t;
    if (le16_get(d->flags) & VRING_DESC_NEXT)
        return broken(r);
    t.desc = table_at(r, piece_of(d), &t.size);
    return t.desc ? walk(r, c, t, 0) : broken(r);
}

static int pop_split(struct vring *r, struct vchain *c)
{
    uint16_t ready = (uint16_t)(vring_load(&r->avail->idx) - r->avail_idx);
    if (!ready)
        return 0;
    if (ready > r->size)
        return broken(r);
    uint16_t head = le16_get(r->avail->ring[r->avail_idx & (r->size - 1)]);
    if (head >= r->size)
        return broken(r);
    c->id = (struct vring_id){head, 1};
    struct vring_desc d = r->desc[head];
    int rc = le16_get(d.flags) & VRING_DESC_INDIRECT
                 ? walk_indirect(r, c, &d)
                 : walk(r, c, (struct table){r->desc, r->size}, head);
    if (rc)
        return rc;
    r->avail_idx++;
    return 1;
}

static void push_split(struct vring *r, uint16_t id, uint32_t written)
{
    struct vring_used_elem *e = &r->used->ring[r->used_idx & (r->size - 1)];
    le32_set(&e->id, id);
    le32_set(&e->len, written);
    vring_store(&r->used->idx, ++r->used_idx);
}

/* ---- Packed ---------------------------------------------------------------------------------- */

static bool available(const struct vring *r, uint16_t flags)
{
    return (flags & VRING_PACKED_BITS) == vring_packed_avail_bits(r->avail_idx, r->size);
}

static int packed_table(struct vring *r, struct vchain *c, const struct vring_packed_desc *d)
{
    unsigned size;
    const struct vring_packed_desc *t = table_at(r, packed_piece(d), &size);
    if (!t)
        return broken(r);
    struct gather g = gather_begin(r, c);
    for (unsigned i = 0; i < size; i++) {
        struct vring_packed_desc copy = t[i];
        if (!add(r, &g, packed_piece(&copy)))
            return broken(r);
    }
    return gathered(&g, c);
}

/* From d, the copy of the first, to one without NEXT, as far as descriptors may be ours. */
static int packed_list(struct vring *r, struct vchain *c, struct vring_packed_desc d)
{
    struct gather g = gather_begin(r, c);
    uint16_t most = (uint16_t)(r->size - (uint16_t)(r->avail_idx - r->used_idx));
    for (c->id.count = 1; c->id.count <= most; c->id.count++) {
        if (le16_get(d.flags) & VRING_DESC_INDIRECT)
            return broken(r);
        if (!add(r, &g, packed_piece(&d)))
            return broken(r);
        if (!(le16_get(d.flags) & VRING_DESC_NEXT)) {
            c->id.id = le16_get(d.id); /* 2.8.6: that of the last */
            return gathered(&g, c);
        }
        d = r->ring[(r->avail_idx + c->id.count) & (r->size - 1)];
    }
    return broken(r);
}

static int pop_packed(struct vring *r, struct vchain *c)
{
    const struct vring_packed_desc *at = &r->ring[r->avail_idx & (r->size - 1)];
    if (!available(r, vring_load(&at->flags)))
        return 0;
    if ((uint16_t)(r->avail_idx - r->used_idx) >= r->size)
        return broken(r);
    struct vring_packed_desc d = *at;
    uint16_t flags = le16_get(d.flags);
    int rc;
    if ((flags & (VRING_DESC_INDIRECT | VRING_DESC_NEXT)) == VRING_DESC_INDIRECT) {
        c->id = (struct vring_id){le16_get(d.id), 1};
        rc = packed_table(r, c, &d);
    } else {
        rc = packed_list(r, c, d);
    }
    if (rc)
        return rc;
    r->avail_idx = (uint16_t)(r->avail_idx + c->id.count);
    return 1;
}

static void push_packed(struct vring *r, struct vring_id id, uint32_t written)
{
    uint16_t flags = vring_packed_used_bits(r->used_idx, r->size);
    flags |= written ? VRING_DESC_WRITE : 0;
    vring_packed_store(&r->ring[r->used_idx & (r->size - 1)],
                       vring_packed_word(written, id.id, flags));
    r->used_idx = (uint16_t)(r->used_idx + id.count);
}

/* ---- Either ---------------------------------------------------------------------------------- */

int vring_pop(struct vring *r, struct vchain *c)
{
    if (r->broken)
        return SR_EIO;
    return r->packed ? pop_packed(r, c) : pop_split(r, c);
}

void vring_push(struct vring *r, struct vring_id id, uint32_t written)
{
    if (r->packed)
        push_packed(r, id, written);
    else
        push_split(r, id.id, written);
}

bool vring_interrupt(struct vring *r)
{
    uint16_t old = r->signalled, now = r->used_idx;
    if (old == now)
        return false;
    r->signalled = now;
    dma_mb();
    if (r->packed)
        return vring_event_wanted(r->driver_event, r->size, now, old);
    if (r->event_idx)
        return vring_need_event(vring_load(&r->avail->ring[r->size]), now, old);
    return !(vring_load(&r->avail->flags) & VRING_AVAIL_NO_INTERRUPT);
}

void vring_notify_me(struct vring *r, bool please)
{
    if (r->packed)
        vring_event_store(r->device_event,
                          !please        ? VRING_EVENT_DISABLE
                          : r->event_idx ? VRING_EVENT_DESC
                                         : VRING_EVENT_ENABLE,
                          vring_packed_off_wrap(r->avail_idx, r->size));
    else if (!r->event_idx)
        vring_store(&r->used->flags, please ? 0 : VRING_USED_NO_NOTIFY);
    else if (please)
        vring_store((le16 *)(void *)&r->used->ring[r->size], r->avail_idx);
    dma_mb();
}

static struct iov list(const struct seg *seg, size_t len)
{
    return (struct iov){.seg = seg, .len = len};
}

struct iov vchain_out(const struct vchain *c)
{
    return list(c->seg, c->out_len);
}

struct iov vchain_in(const struct vchain *c)
{
    return list(c->seg + c->nout, c->in_len);
}
