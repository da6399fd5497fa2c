/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The split ring, device's side (virtio 1.2, 2.7). See virtq.c for the picture.
 *
 * A chain is walked with a bound on its length, so links in a circle end; an indirect table is one
 * contiguous area that is mapped as a whole, and may not contain another. Descriptors to read come
 * before those to write (2.7.4.2). What is checked is a copy: the driver may change its table while
 * we look.
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

int vring_open(struct vring *r, const struct vmemory *m, unsigned size, uint64_t desc,
               uint64_t avail, uint64_t used, uint64_t features)
{
    if (!is_pow2(size) || size > VRING_MAX_SIZE)
        return SR_EINVAL;
    *r = (struct vring){.memory = m, .size = (uint16_t)size};
    r->desc = area(m, desc, VRING_DESC_BYTES(size), VRING_DESC_ALIGN);
    r->avail = area(m, avail, VRING_AVAIL_BYTES(size), 2);
    r->used = area(m, used, VRING_USED_BYTES(size), 4);
    r->event_idx = features >> VIRTIO_F_EVENT_IDX & 1;
    r->indirect = features >> VIRTIO_F_INDIRECT_DESC & 1;
    return r->desc && r->avail && r->used ? 0 : SR_EINVAL;
}

static int broken(struct vring *r)
{
    r->broken = true;
    return SR_EIO;
}

struct table {
    const struct vring_desc *desc;
    unsigned size;
};

static int add(struct vring *r, struct vchain *c, const struct vring_desc *d)
{
    uint32_t len = le32_get(d->len);
    bool write = le16_get(d->flags) & VRING_DESC_WRITE;
    if (c->nout + c->nin == VCHAIN_MAX || !len || (c->nin && !write))
        return broken(r);
    void *at = vmemory_at(r->memory, le64_get(d->addr), len);
    if (!at)
        return broken(r);
    c->seg[c->nout + c->nin] = (struct seg){at, len};
    if (write) {
        c->nin++;
        c->in_len += len;
    } else {
        c->nout++;
        c->out_len += len;
    }
    return 0;
}

/* Follows the links of one table. */
static int walk(struct vring *r, struct vchain *c, struct table t, unsigned at)
{
    for (unsigned n = 0; n < t.size; n++) {
        if (at >= t.size)
            return broken(r);
        struct vring_desc d = t.desc[at];
        if (le16_get(d.flags) & VRING_DESC_INDIRECT)
            return broken(r);
        int rc = add(r, c, &d);
        if (rc)
            return rc;
        if (!(le16_get(d.flags) & VRING_DESC_NEXT))
            return 0;
        at = le16_get(d.next);
    }
    return broken(r); /* a circle */
}

static int walk_indirect(struct vring *r, struct vchain *c, const struct vring_desc *d)
{
    uint32_t len = le32_get(d->len);
    if (!r->indirect || le16_get(d->flags) & VRING_DESC_NEXT || !len || len % sizeof(*d))
        return broken(r);
    struct table t = {vmemory_at(r->memory, le64_get(d->addr), len), len / (uint32_t)sizeof(*d)};
    return t.desc ? walk(r, c, t, 0) : broken(r);
}

int vring_pop(struct vring *r, struct vchain *c)
{
    if (r->broken)
        return SR_EIO;
    uint16_t ready = (uint16_t)(vring_load(&r->avail->idx) - r->avail_idx);
    if (!ready)
        return 0;
    if (ready > r->size)
        return broken(r);
    uint16_t head = le16_get(r->avail->ring[r->avail_idx & (r->size - 1)]);
    if (head >= r->size)
        return broken(r);
    c->id = head;
    c->nout = c->nin = 0;
    c->out_len = c->in_len = 0;
    struct vring_desc d = r->desc[head];
    int rc = le16_get(d.flags) & VRING_DESC_INDIRECT
                 ? walk_indirect(r, c, &d)
                 : walk(r, c, (struct table){r->desc, r->size}, head);
    if (rc)
        return rc;
    r->avail_idx++;
    return 1;
}

void vring_push(struct vring *r, uint16_t id, uint32_t written)
{
    struct vring_used_elem *e = &r->used->ring[r->used_idx & (r->size - 1)];
    le32_set(&e->id, id);
    le32_set(&e->len, written);
    vring_store(&r->used->idx, ++r->used_idx);
}

bool vring_interrupt(struct vring *r)
{
    uint16_t old = r->signalled, now = r->used_idx;
    if (old == now)
        return false;
    r->signalled = now;
    dma_mb();
    if (r->event_idx)
        return vring_need_event(vring_load(&r->avail->ring[r->size]), now, old);
    return !(vring_load(&r->avail->flags) & VRING_AVAIL_NO_INTERRUPT);
}

void vring_notify_me(struct vring *r, bool please)
{
    if (!r->event_idx)
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
