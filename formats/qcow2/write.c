/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writes.
 *
 * Most go where their cluster is: one look at the slice, and on to the file, as they are, on whatever
 * loop they came. The others go home and are cut at the ends of slices and of runs of one kind:
 *
 *     IN_PLACE   the cluster is ours alone
 *     NEW        there is none (unallocated, or zero): a new one
 *     COPY       it is another's, too, or compressed: a new one, with all of its content
 *     REUSE      it is there, but its entry hides (part of) it: zero flag, subclusters
 *
 * The last three write data first and change the entry afterwards (link). Until then nobody sees the
 * new cluster, and who wants to write, clear or allocate in the same guest clusters waits for the
 * alloc_op. A unit (the cluster, or a subcluster) has to be written as a whole, so the write is padded
 * with what a guest would read there:
 *
 *     unit |  head  | data .................... |  tail  | unit      one request, three pieces
 *           zeroes or copy                       zeroes or copy
 *
 * Of a cluster that is reused only hidden units are padded: others write to the rest of it meanwhile.
 * Zeroes come from a page that is always zero, or are left out where the new cluster is known to be
 * zero; copies are read through the image itself, so backing, shared and compressed clusters are all
 * one case here. Whoever fails gives its clusters back; the guest then reads what it read before.
 *
 * External data files: a cluster's place is its guest offset, and nothing is allocated.
 */
#include "formats/qcow2/writer.h"

enum kind { IN_PLACE, NEW, COPY, REUSE };
struct target {
    enum kind kind;
    uint64_t start, count; /* guest offset of the first cluster; clusters in a row */
    uint64_t host;         /* IN_PLACE, REUSE */
    uint64_t unit;
    uint64_t bitmap; /* of the first cluster */
};
#define SEGS_MOST 12u /* pieces of data that still go together with their padding */

static inline uint64_t cluster_size(const struct qcow2 *s)
{
    return s->cluster_mask + 1;
}

/* ---- what is there ---- */

/* Bits of the subclusters that [in, in + len) touches. */
static uint64_t touched(const struct qcow2 *s, uint64_t in, uint64_t len)
{
    unsigned shift = s->cluster_bits - QCOW2_SUBCLUSTER_BITS;
    uint64_t first = in >> shift, last = (in + len - 1) >> shift;
    return (2ull << last) - (1ull << first);
}

static enum kind kind_of(const struct qcow2 *s, uint64_t entry, uint64_t bitmap, uint64_t in,
                         uint64_t len)
{
    bool has_host = (entry & QCOW2_OFFSET_MASK) || (s->external && (entry & QCOW2_COPIED));
    if (entry & QCOW2_L2_COMPRESSED)
        return COPY;
    if (!has_host)
        return NEW;
    if (!(entry & QCOW2_COPIED) && !s->external)
        return entry & QCOW2_L2_ZERO ? NEW : COPY;
    if (!s->extended)
        return entry & QCOW2_L2_ZERO ? REUSE : IN_PLACE;
    return touched(s, in, len) & ~bitmap ? REUSE : IN_PLACE;
}

/* The run of clusters alike from the one that holds `off`. The slice was looked through. */
static void find_target(const struct qcow2 *s, const struct l2_slice *slice, uint64_t off,
                        uint64_t len, struct target *t)
{
    uint64_t in = off & s->cluster_mask, i = off >> s->cluster_bits & s->index_mask;
    uint64_t n = MIN((in + len + s->cluster_mask) >> s->cluster_bits, s->index_mask + 1 - i);
    n = MIN(n, QCOW2_CHANGE_MOST);
    *t = (struct target){.start = off - in};
    for (uint64_t k = 0; k < n; k++) {
        const be64 *at = &slice->entries[(i + k) << s->extended];
        uint64_t entry = be64_get(*at), bitmap = s->extended ? be64_get(at[1]) : 0;
        uint64_t part = MIN(len, cluster_size(s) - in), host = entry & QCOW2_OFFSET_MASK;
        enum kind kind = kind_of(s, entry, bitmap, in, part);
        if (!k) {
            t->kind = kind;
            t->host = host;
            t->bitmap = bitmap;
        } else if (kind != t->kind || s->extended ||
                   ((kind == IN_PLACE || kind == REUSE) &&
                    host != t->host + (k << s->cluster_bits))) {
            break;
        }
        t->count++;
        len -= part;
        in = 0;
    }
    bool sub = s->extended && t->kind != COPY;
    t->unit = sub ? cluster_size(s) >> QCOW2_SUBCLUSTER_BITS : cluster_size(s);
}

/* ---- padding ---- */

/* Does [off, off + len) read as zeroes, as far as that is known without reading? */
static bool co_reads_zero(struct qcow2 *s, uint64_t off, uint64_t len)
{
    struct child *b = s->node->backing;
    while (len) {
        struct blk_status st = {0};
        struct extent e;
        uint64_t host;
        if (qcow2_map(s, off, len, &e, &host) ||
            (e.type != EXTENT_ZERO && e.type != EXTENT_UNALLOCATED))
            return false;
        uint64_t n = MIN(e.len, len);
        if (e.type == EXTENT_UNALLOCATED && b && off < b->node->size) {
            n = MIN(n, b->node->size - off);
            if (co_blk_status_above(b, off, n, &st) || !(st.flags & BLK_ZERO))
                return false;
            n = MIN(n, st.len);
        }
        off += n;
        len -= n;
    }
    return true;
}

struct pad {
    uint64_t guest;
    size_t len;
    bool zero;
};

/* Where the unit that holds `off` begins; or `off`, when it need not be complete. */
static uint64_t unit_start(const struct qcow2 *s, const struct target *t, uint64_t off)
{
    uint64_t start = align_down(off, t->unit);
    if (start == off || t->kind != REUSE || !s->extended)
        return start;
    return t->bitmap & touched(s, start & s->cluster_mask, 1) ? off : start;
}

static uint64_t unit_end(const struct qcow2 *s, const struct target *t, uint64_t off)
{
    uint64_t start = align_down(off, t->unit);
    return unit_start(s, t, off) == start ? start + (start < off ? t->unit : 0) : off;
}

static struct pad co_look_at(struct qcow2 *s, uint64_t guest, uint64_t len)
{
    return (struct pad){guest, (size_t)len, !len || co_reads_zero(s, guest, len)};
}

static struct seg pad_seg(const struct pad *p, char **copy)
{
    char *base = p->zero ? qcow2_zeroes : *copy;
    if (!p->zero)
        *copy += p->len;
    return (struct seg){.base = base, .len = p->len};
}

static int co_fill_pad(struct qcow2 *s, const struct pad *p, struct seg *seg)
{
    if (!p->len || p->zero)
        return 0;
    return co_qcow2_read_home(s->node, p->guest, (struct iov){.seg = seg, .len = p->len});
}

/* All in one request. The paddings fit one buffer together. */
static __attribute__((noinline)) int co_write_together(struct qcow2 *s, uint64_t host,
                                                       const struct pad *head, struct iov v,
                                                       const struct pad *tail)
{
    struct seg segs[SEGS_MOST + 2];
    struct copy c = {0};
    bool copies = !head->zero || !tail->zero;
    unsigned n = 0;
    void *p;
    if (copies)
        co_copy_get(s, &c);
    char *at = c.data;
    segs[0] = pad_seg(head, &at);
    int r = co_fill_pad(s, head, &segs[0]);
    n += head->len != 0;
    struct iov all = {.seg = segs, .len = head->len + v.len + tail->len}, walk = v;
    for (size_t len; iov_next(&walk, &p, &len); n++)
        segs[n] = (struct seg){.base = p, .len = len};
    segs[n] = pad_seg(tail, &at);
    if (!r)
        r = co_fill_pad(s, tail, &segs[n]);
    if (!r)
        r = co_blk_pwritev(s->data, host - head->len, all, 0);
    if (copies)
        copy_put(s, &c);
    return r;
}

static int co_write_pad(struct qcow2 *s, uint64_t host, struct pad p)
{
    struct copy c;
    int r = 0;
    if (p.zero)
        return p.len ? co_blk_pwrite_zeroes(s->data, host, p.len, 0) : 0;
    co_copy_get(s, &c);
    while (p.len && !r) {
        struct seg seg = {.base = c.data, .len = MIN(p.len, s->w->copy_size)};
        struct iov v = {.seg = &seg, .len = seg.len};
        r = co_qcow2_read_home(s->node, p.guest, v);
        if (!r)
            r = co_blk_pwritev(s->data, host, v, 0);
        p.guest += seg.len;
        host += seg.len;
        p.len -= seg.len;
    }
    copy_put(s, &c);
    return r;
}

static int co_write_padded(struct qcow2 *s, uint64_t host, const struct pad *head, struct iov v,
                           const struct pad *tail)
{
    size_t room = s->w->copy_size;
    if (!head->len && !tail->len)
        return co_blk_pwritev(s->data, host, v, 0);
    if (head->len <= room && tail->len <= room &&
        (head->zero || tail->zero || head->len + tail->len <= room) && iov_count(v) <= SEGS_MOST)
        return co_write_together(s, host, head, v, tail);
    int r = co_write_pad(s, host - head->len, *head);
    if (!r)
        r = co_blk_pwritev(s->data, host, v, 0);
    return r ? r : co_write_pad(s, host + v.len, *tail);
}

/* ---- new clusters ---- */

static void set_entry(struct qcow2 *s, be64 *at, const struct target *t, uint64_t host, uint64_t in,
                      uint64_t len)
{
    uint64_t old = be64_get(*at), bitmap = s->extended ? be64_get(at[1]) : 0;
    uint64_t bits = s->extended ? touched(s, in, len) : 0;
    if (t->kind != REUSE)
        entry_free(s, old, false);
    if (t->kind == COPY)
        bits = QCOW2_ALL_DATA, bitmap = 0;
    entry_set(at, host | QCOW2_COPIED);
    if (s->extended)
        be64_set(&at[1], (bitmap | bits) & ~(bits << 32));
}

/* [off, off + len) lies in new clusters from `host` on, complete: their entries change. */
static int co_link(struct qcow2 *s, const struct target *t, uint64_t host, uint64_t off,
                   uint64_t len)
{
    struct l2_slice *slice;
    uint64_t i = off >> s->cluster_bits & s->index_mask, in = off & s->cluster_mask;
    int r = co_slice_for_write(s, off, t->count, &slice);
    if (r)
        return r;
    for (uint64_t k = 0; k < t->count; k++, in = 0) {
        uint64_t part = MIN(len, cluster_size(s) - in);
        set_entry(s, &slice->entries[(i + k) << s->extended], t, host + (k << s->cluster_bits), in,
                  part);
        len -= part;
    }
    l2_set_dirty(&s->l2, slice);
    s->w->changes++;
    return 0;
}

/* Where the data go; fewer clusters than wanted may be had. */
static int co_place(struct qcow2 *s, struct target *t, bool zeroes, struct found *f)
{
    *f = (struct found){.host = t->kind == REUSE ? t->host : t->start, .count = t->count};
    if (t->kind == REUSE || s->external)
        return 0;
    int r = co_alloc(s, t->start >> s->cluster_bits, t->count, zeroes, f);
    if (!r)
        t->count = f->count;
    return r;
}

static __attribute__((noinline)) int co_write_new(struct qcow2 *s, uint64_t off, struct iov v,
                                                  struct target *t, struct alloc_op *op,
                                                  size_t *done)
{
    uint64_t end = t->start + (t->count << s->cluster_bits), stop = MIN(off + v.len, end);
    uint64_t first = unit_start(s, t, off), last = unit_end(s, t, stop);
    struct found f;
    if (s->external) /* it need not be longer than the disk */
        last = MAX(stop, MIN(last, s->data->node->size));
    struct pad head = co_look_at(s, first, off - first), tail = co_look_at(s, stop, last - stop);
    int r = co_place(s, t, (head.len && head.zero) || (tail.len && tail.zero), &f);
    if (r)
        return r;
    end = t->start + (t->count << s->cluster_bits);
    if (end < op->end) {
        op->end = end;
        stop = MIN(stop, end);
        if (stop == end)
            tail = (struct pad){.zero = true};
    }
    if ((f.zeroed && head.zero) || MUTANT(COW_NO_PADDING))
        head.len = 0;
    if ((f.zeroed && tail.zero) || MUTANT(COW_NO_PADDING))
        tail.len = 0;
    *done = (size_t)(stop - off);
    r = co_write_padded(s, f.host + (off - t->start), &head, iov_slice(v, 0, *done), &tail);
    if (!r)
        r = co_link(s, t, f.host, off, *done);
    if (r && t->kind != REUSE && !s->external)
        co_unalloc(s, f.host, f.count << s->cluster_bits);
    return r;
}

static void op_begin(struct qcow2 *s, struct alloc_op *op, uint64_t start, uint64_t end)
{
    op->start = start;
    op->end = end;
    co_queue_init(&op->waiting);
    list_append(&s->w->allocs, &op->link);
}

static void op_end(struct alloc_op *op)
{
    list_remove(&op->link);
    co_queue_wake_all(&op->waiting);
}

/* ---- one part ---- */

static int co_write_in_place(struct qcow2 *s, uint64_t off, struct iov v, const struct target *t,
                             size_t *done)
{
    uint64_t in = off - t->start;
    unsigned e = qcow2_io_begin(s);
    *done = (size_t)MIN(v.len, (t->count << s->cluster_bits) - in);
    int r = co_blk_pwritev(s->data, t->host + in, iov_slice(v, 0, *done), 0);
    qcow2_io_end(s, e);
    return r;
}

/* Nothing yields from the look at the entries to the begin of what follows from it. */
static int co_write_part(struct qcow2 *s, uint64_t off, struct iov v, size_t *done)
{
    struct l2_slice *slice;
    struct alloc_op op, *other;
    struct target t;
    *done = 0;
    int r = s->corrupt ? SR_EIO : co_slice(s, off, &slice);
    if (r)
        return r;
    find_target(s, slice, off, v.len, &t);
    if (t.kind == IN_PLACE)
        return co_write_in_place(s, off, v, &t, done);
    uint64_t end = t.start + (t.count << s->cluster_bits);
    if ((other = alloc_overlap(s, t.start, end))) {
        co_queue_wait(&other->waiting);
        return 0;
    }
    op_begin(s, &op, t.start, end);
    r = co_write_new(s, off, v, &t, &op, done);
    op_end(&op);
    return r;
}

/* ---- compressed ---- */

static int co_link_compressed(struct qcow2 *s, uint64_t off, uint64_t host, size_t len)
{
    struct l2_slice *slice;
    uint64_t i = off >> s->cluster_bits & s->index_mask;
    uint64_t sectors = (host + len - 1) / QCOW2_SECTOR - host / QCOW2_SECTOR;
    int r = co_slice_for_write(s, off, 1, &slice);
    if (r)
        return r;
    be64 *at = &slice->entries[i << s->extended];
    entry_free(s, be64_get(*at), false);
    entry_set(at, QCOW2_L2_COMPRESSED | sectors << s->csize_shift | host);
    if (s->extended)
        be64_set(&at[1], 0);
    l2_set_dirty(&s->l2, slice);
    s->w->changes++;
    return 0;
}

/* SR_ENOSPC, and it may be tried again: what was compressed is let go of before anybody waits for
 * space. SR_ENOTSUP: it does not become shorter. */
static int co_store_squeezed(struct qcow2 *s, struct iov v, uint64_t *host, size_t *len)
{
    struct squeezed z;
    int r = co_squeeze(s, v, &z);
    if (r)
        return r == SR_ENOSPC ? SR_ENOTSUP : r;
    *len = z.len;
    r = co_alloc_packed(s, z.len, host);
    if (!r) {
        r = co_blk_pwrite(s->node->file, *host, z.data, z.len, 0);
        if (r)
            co_unalloc(s, *host, z.len);
    }
    squeeze_done(s, &z);
    return r;
}

static int co_write_compressed_op(struct qcow2 *s, uint64_t off, struct iov v)
{
    struct l2_slice *slice;
    uint64_t host;
    size_t len;
    int r = co_slice(s, off, &slice), room = 0; /* looked through, before space is taken */
    if (r)
        return r;
    do {
        r = co_store_squeezed(s, v, &host, &len);
        if (r == SR_ENOSPC)
            room = co_make_room(s);
    } while (r == SR_ENOSPC && !room);
    if (r)
        return r;
    r = co_link_compressed(s, off, host, len);
    if (r)
        co_unalloc(s, host, len);
    return r;
}

/* One cluster; SR_ENOTSUP: it is to be stored as it is. */
static int co_write_compressed(struct qcow2 *s, uint64_t off, struct iov v)
{
    struct alloc_op op, *other;
    while ((other = alloc_overlap(s, off, off + cluster_size(s))))
        co_queue_wait(&other->waiting);
    op_begin(s, &op, off, off + cluster_size(s));
    int r = co_write_compressed_op(s, off, v);
    op_end(&op);
    return r;
}

static int co_write_all_compressed(struct qcow2 *s, uint64_t off, struct iov v)
{
    uint64_t end = off + v.len;
    int r = s->external ? SR_ENOTSUP : 0;
    if ((off & s->cluster_mask) || ((end & s->cluster_mask) && end != s->node->size))
        return SR_EINVAL;
    while (v.len && !r) {
        size_t n = (size_t)MIN(v.len, cluster_size(s)), done = 0;
        r = co_write_compressed(s, off, iov_slice(v, 0, n));
        if (r == SR_ENOTSUP)
            for (r = 0; done < n && !r;) {
                size_t part = 0;
                r = co_write_part(s, off + done, iov_slice(v, done, n - done), &part);
                done += part;
            }
        off += n;
        v = iov_slice(v, n, v.len - n);
    }
    return r;
}

/* ---- all of it ---- */

int co_qcow2_promise(struct qcow2 *s, unsigned flags)
{
    if (flags & BLK_FUA)
        return MUTANT(FUA_NO_METADATA) ? co_blk_flush(s->node->file) : co_commit_stable(s);
    if (flags & BLK_SETTLED && !MUTANT(SETTLE_EARLY)) /* an image below settles with its flush */
        return s->w->below ? co_commit_stable(s) : co_qcow2_commit(s);
    return 0;
}

static int co_write_parts(struct qcow2 *s, uint64_t off, struct iov v)
{
    int r = 0;
    while (v.len && !r) {
        size_t done = 0;
        r = co_write_part(s, off, v, &done);
        off += done;
        v = iov_slice(v, done, v.len - done);
        if (MUTANT(FREE_AT_ONCE))
            co_reclaim_wait(s);
    }
    return r;
}

static __attribute__((noinline)) int co_write_home(struct node *n, uint64_t off, struct iov v,
                                                   unsigned flags)
{
    struct qcow2 *s = n->state;
    unsigned from = loop_id();
    if (from != n->home_loop)
        co_hop(n->home_loop);
    int r = co_prepare(s);
    if (!r && (flags & BLK_COMPRESSED))
        r = co_write_all_compressed(s, off, v);
    else if (!r)
        r = co_write_parts(s, off, v);
    if (!r)
        r = co_qcow2_promise(s, flags);
    if (from != n->home_loop)
        co_hop(from);
    return r;
}

/* What is promised beyond the data is true already. Settled is what has been written of the way to
 * them; stable, only what was flushed since the last change. */
static __attribute__((noinline)) bool kept(const struct qcow2 *s, uint64_t off, unsigned flags)
{
    const struct writer *w = s->w;
    if (flags & ~(unsigned)(BLK_FUA | BLK_SETTLED) || loop_id() != s->node->home_loop)
        return false;
    if (flags & BLK_FUA || w->below)
        return w->stable == w->changes;
    const struct l2_slice *slice = l2_lookup(&s->l2, off >> s->slice_shift);
    return slice && entry_written(s, slice, off);
}

int co_qcow2_pwritev(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    struct qcow2 *s = n->state;
    uint64_t host;
    flags &= ~(unsigned)BLK_WRITE_UNCHANGED;
    unsigned e = qcow2_io_begin(s);
    if (likely(qcow2_map_in_place(s, off, v.len, &host) && (!flags || kept(s, off, flags)))) {
        int r = co_blk_pwritev(s->data, host, v, flags ? flags & (BLK_FUA | s->w->below) : 0);
        qcow2_io_end(s, e);
        return r;
    }
    qcow2_io_end(s, e);
    return co_write_home(n, off, v, flags);
}
