/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Clusters: found, and given back.
 *
 * Finding. Every cluster below `cursor` is used; the search goes on from there, takes adjacent ones
 * when several are wanted, and makes the file longer when it must and can (a disk has the size that
 * it has: SR_ENOSPC). A cluster that becomes free moves the cursor back. So a full image is found full
 * at once.
 *
 * Neighbours. Clusters that one writer writes one after the other lie side by side anyway. So that they
 * do when several write, each in its own place, the allocator remembers where the last few writes to
 * new clusters ended (struct trail). Who goes on there has clusters set aside for what follows, twice
 * as many each time; random writes have none. What is set aside is neither counted nor lost: others
 * take it when there is nothing else, or when its trail has not been seen for long.
 *
 * Zeroes. A write of a few sectors to a new cluster needs zeroes around it. When the file can zero by
 * itself, a stretch of free clusters is zeroed ahead with one request; what the file has grown by is
 * zero anyway. The allocator goes through such a stretch from its beginning:
 *
 *     used used used | zero_from ...... zero_to |  unknown         (only [zero_from, zero_to) counts)
 *
 * Giving back. A cluster that an entry does not name any more cannot be used at once:
 *   - the file still names it, until the changed entry is written and stable;
 *   - a request that looked at the entry before may still read or write it.
 * Entries are changed first and their old clusters put on `pending`; the commit that writes these
 * changes makes them `ready` and begins a new epoch of requests; a coroutine then flushes, waits for
 * the requests of the old epoch, tells the node below what will be free, and lowers the refcounts.
 * While it is at work the next ones gather on `pending`.
 *
 *     change -> pending -> (commit) -> ready -> (flush, requests end) -> discard, refcount - 1
 *
 * An entry that is not COPIED says that its cluster is another's, too. When the refcount is 1 all the
 * same, one of the two lies, and the cluster stays: a leak is nothing beside what it could be.
 *
 * Packed clusters. Compressed data begin right behind the one before, also when they go on in the next
 * cluster; each cluster counts the pieces that touch it.
 */
#include "formats/qcow2/writer.h"

#include <string.h>

#define GROW_MIN   (1u << 20)
#define GROW_MAX   (64u << 20)
#define ZERO_AHEAD (4u << 20)
#define GRACE_NS   1000000u

static inline uint64_t cluster_size(const struct qcow2 *s)
{
    return s->cluster_mask + 1;
}

/* ---- growing ---- */

/* What the file has grown by, from `size` to `end` bytes, is zero. */
static void note_growth(struct qcow2 *s, uint64_t size, uint64_t end)
{
    struct writer *w = s->w;
    uint64_t from = (size + s->cluster_mask) >> s->cluster_bits;
    if (w->zero_from >= w->zero_to || w->zero_to != from)
        w->zero_from = from;
    w->zero_to = end >> s->cluster_bits;
    w->grown = true;
}

uint64_t file_round(const struct qcow2 *s, uint64_t size)
{
    return align_up(size, MAX(cluster_size(s), s->node->file->node->limits.request_alignment));
}

int co_grow(struct qcow2 *s, uint64_t end)
{
    struct child *file = s->node->file;
    uint64_t size = file->node->size, need = end << s->cluster_bits;
    if (likely(end <= size >> s->cluster_bits))
        return 0;
    if (s->w->fixed || end > QCOW2_OFFSET_MASK >> s->cluster_bits)
        return SR_ENOSPC;
    uint64_t step = MIN(MAX(size / 8, GROW_MIN), GROW_MAX);
    uint64_t want = file_round(s, MAX(need, size + step));
    int r = co_blk_truncate(file, want);
    if (r == SR_ENOSPC && want > file_round(s, need))
        r = co_blk_truncate(file, want = file_round(s, need));
    if (!r)
        note_growth(s, size, want);
    s->w->fixed |= r == SR_ENOTSUP;
    return r == SR_ENOTSUP ? SR_ENOSPC : r;
}

/* ---- trails (alloc is held) ---- */

#define AHEAD_MAX (1u << 20)

/* Takes back what is set aside for it. */
static void trail_end(struct writer *w, struct trail *st)
{
    if (st->host < st->end)
        w->cursor = MIN(w->cursor, st->host);
    *st = (struct trail){.guest = UINT64_MAX};
}

static bool trails_end(struct writer *w)
{
    bool any = false;
    for (unsigned i = 0; i < QCOW2_TRAILS; i++) {
        any |= w->trails[i].host < w->trails[i].end;
        trail_end(w, &w->trails[i]);
    }
    return any;
}

static struct trail *trail_at(struct writer *w, uint64_t guest)
{
    for (unsigned i = 0; i < QCOW2_TRAILS; i++)
        if (w->trails[i].guest == guest)
            return &w->trails[i];
    return NULL;
}

static struct trail *trail_begin(struct writer *w)
{
    struct trail *oldest = &w->trails[0];
    for (unsigned i = 1; i < QCOW2_TRAILS; i++)
        if (w->trails[i].seen < oldest->seen)
            oldest = &w->trails[i];
    trail_end(w, oldest);
    return oldest;
}

/* It is set aside up to here; 0: it is not. */
static uint64_t set_aside(const struct writer *w, uint64_t cluster)
{
    for (unsigned i = 0; i < QCOW2_TRAILS; i++)
        if (cluster >= w->trails[i].host && cluster < w->trails[i].end)
            return w->trails[i].end;
    return 0;
}

/* ---- finding (alloc is held) ---- */

/* The next free one within the slice and the file, or their end. */
static uint64_t scan(const struct qcow2 *s, const struct ref_slice *slice)
{
    uint64_t end = slice->first + (1ull << s->w->refs.slice_bits), c = s->w->cursor, skip = 0;
    end = MIN(end, s->node->file->node->size >> s->cluster_bits);
    while (c < end && (ref_get(s, slice, c) || (skip = set_aside(s->w, c))))
        c = ref_get(s, slice, c) ? c + 1 : skip;
    return c;
}

static int co_find(struct qcow2 *s, struct ref_slice **slice)
{
    struct writer *w = s->w;
    for (;;) {
        int r = co_refs_switch(s);
        if (!r)
            r = co_grow(s, w->cursor + 1);
        if (r == SR_ENOSPC && trails_end(w))
            continue;
        if (!r)
            r = co_ref_slice(s, w->cursor, slice);
        if (!r && !*slice) {
            r = co_ref_new_block(s, w->cursor);
            if (!r)
                continue;
        }
        if (r)
            return r;
        w->cursor = scan(s, *slice);
        if (w->cursor < (*slice)->first + (1ull << w->refs.slice_bits) &&
            w->cursor < s->node->file->node->size >> s->cluster_bits)
            return 0;
    }
}

/* Free ones in a row, from the cursor on, within the slice and the file. */
static uint64_t row(const struct qcow2 *s, const struct ref_slice *slice, uint64_t most)
{
    const struct writer *w = s->w;
    uint64_t first = w->cursor, end = slice->first + (1ull << w->refs.slice_bits), n = 0;
    end = MIN(end, s->node->file->node->size >> s->cluster_bits);
    for (unsigned i = 0; i < QCOW2_TRAILS; i++)
        if (w->trails[i].host >= first && w->trails[i].host < w->trails[i].end)
            end = MIN(end, w->trails[i].host);
    while (n < most && first + n < end && !ref_get(s, slice, first + n))
        n++;
    return n;
}

static bool at_zeroes(const struct qcow2 *s)
{
    return s->w->cursor >= s->w->zero_from && s->w->cursor < s->w->zero_to;
}

/* Not being able to is no error: the writer brings zeroes along. */
static int co_zero_ahead(struct qcow2 *s, struct ref_slice **slice)
{
    struct writer *w = s->w;
    uint64_t first = w->cursor, n = row(s, *slice, MAX(ZERO_AHEAD >> s->cluster_bits, 1u));
    int r = co_blk_pwrite_zeroes(s->node->file, first << s->cluster_bits, n << s->cluster_bits,
                                 BLK_MAY_UNMAP | BLK_NO_FALLBACK);
    if (!r) {
        w->zero_from = first;
        w->zero_to = first + n;
    }
    w->no_zero |= r == SR_ENOTSUP;
    return co_ref_slice(s, first, slice);
}

static void take(struct qcow2 *s, struct ref_slice *slice, uint64_t first, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        ref_set(s, slice, first + i, 1);
}

/* From what was set aside for those who go on at `guest`; false: there is nothing. */
static int co_take_aside(struct qcow2 *s, struct trail *st, uint64_t want, struct found *f)
{
    struct ref_slice *slice;
    int r = co_ref_slice(s, st->host, &slice); /* the row did not leave it */
    if (r || !slice)
        return r ? r : SR_EIO;
    uint64_t n = MIN(want, st->end - st->host);
    take(s, slice, st->host, n);
    *f = (struct found){.host = st->host << s->cluster_bits, .count = n, .zeroed = st->zeroed};
    st->host += n;
    st->guest += n;
    return 0;
}

static int co_take_next(struct qcow2 *s, uint64_t want, bool zeroed, uint64_t ahead,
                        struct found *f)
{
    struct writer *w = s->w;
    struct ref_slice *slice;
    int r = co_find(s, &slice);
    if (!r && zeroed && !at_zeroes(s) && !w->no_zero)
        r = co_zero_ahead(s, &slice);
    if (r)
        return r;
    uint64_t first = w->cursor, n = row(s, slice, want + ahead);
    f->zeroed = at_zeroes(s);
    if (f->zeroed)
        n = MIN(n, w->zero_to - first);
    f->zeroed |= MUTANT(ZERO_STALE);
    if (first < w->zero_to && first + n > w->zero_from)
        w->zero_from = first + n;
    f->host = first << s->cluster_bits;
    f->count = MIN(n, want);
    f->aside = n - f->count;
    take(s, slice, first, f->count);
    w->cursor = first + n;
    return 0;
}

/* guest: number of the cluster that is written; UINT64_MAX: none. */
static int co_alloc_locked(struct qcow2 *s, uint64_t guest, uint64_t want, bool zeroed,
                           struct found *f)
{
    struct writer *w = s->w;
    struct trail *st = guest == UINT64_MAX ? NULL : trail_at(w, guest);
    uint64_t ahead = st ? MIN(st->ahead * 2, AHEAD_MAX >> s->cluster_bits) : 0;
    if (st && st->host < st->end) {
        st->seen = ++w->seen;
        return co_take_aside(s, st, want, f);
    }
    int r = co_take_next(s, want, zeroed, ahead, f);
    if (r || guest == UINT64_MAX)
        return r;
    st = trail_at(w, guest); /* ENOSPC may have ended it */
    st = st ? st : trail_begin(w);
    uint64_t next = (f->host >> s->cluster_bits) + f->count;
    *st = (struct trail){.guest = guest + f->count, .host = next, .end = next + f->aside};
    st->zeroed = f->zeroed;
    st->ahead = MAX(ahead, f->count);
    st->seen = ++w->seen;
    return 0;
}

/* After SR_ENOSPC: 0 when there may be room now. */
int co_make_room(struct qcow2 *s)
{
    struct writer *w = s->w;
    if (!w->npending && !w->nready && !w->reclaiming)
        return SR_ENOSPC;
    int r = co_qcow2_commit(s);
    if (r)
        return r;
    co_reclaim_wait(s);
    return w->reclaim_error;
}

int co_alloc(struct qcow2 *s, uint64_t guest, uint64_t want, bool zeroed, struct found *f)
{
    int r, room = 0;
    do {
        co_mutex_lock(&s->w->alloc);
        r = co_alloc_locked(s, guest, want, zeroed, f);
        co_mutex_unlock(&s->w->alloc);
        if (r == SR_ENOSPC)
            room = co_make_room(s);
    } while (r == SR_ENOSPC && !room);
    if (r == SR_ENOSPC && room == SR_ENOSPC && s->w->fixed)
        log_limited("qcow2", "node %s: no space left: node '%s' has %llu bytes and does not grow",
                    s->node->name, s->node->file->node->name,
                    (unsigned long long)s->node->file->node->size);
    return r == SR_ENOSPC ? room : r;
}

/* ---- packed (alloc is held) ---- */

/* One more piece in the cluster that is being filled; false: no. */
static int co_share(struct qcow2 *s, bool *shared)
{
    uint64_t cluster = s->w->pack >> s->cluster_bits;
    struct ref_slice *slice;
    *shared = false;
    int r = co_ref_slice(s, cluster, &slice);
    if (r || !slice)
        return r;
    uint64_t v = ref_get(s, slice, cluster);
    if (v && v < ref_max(s)) {
        ref_set(s, slice, cluster, v + 1);
        *shared = true;
    }
    return 0;
}

static void set_pack(struct qcow2 *s, uint64_t end)
{
    s->w->pack = align_up(end, s->node->file->node->limits.request_alignment);
    if (!(s->w->pack & s->cluster_mask))
        s->w->pack = 0;
}

static int co_pack_locked(struct qcow2 *s, size_t len, uint64_t *host)
{
    struct writer *w = s->w;
    uint64_t at = w->pack, room = at ? cluster_size(s) - (at & s->cluster_mask) : 0;
    struct found f = {0};
    bool shared = false;
    int r = 0;
    if (room >= len)
        r = co_share(s, &shared);
    if (!r && !shared) {
        r = co_alloc_locked(s, UINT64_MAX, 1, false, &f);
        if (!r && room && room < len && at + room == f.host && at == w->pack)
            r = co_share(s, &shared);
        if (r && f.count)
            (void)co_ref_drop(s, f.host >> s->cluster_bits, 1, false);
    }
    if (r)
        return r;
    *host = shared ? at : f.host;
    set_pack(s, *host + len);
    return 0;
}

int co_alloc_packed(struct qcow2 *s, size_t len, uint64_t *host)
{
    co_mutex_lock(&s->w->alloc);
    int r = co_pack_locked(s, len, host);
    co_mutex_unlock(&s->w->alloc);
    return r;
}

/* ---- giving back ---- */

static void now_free(struct qcow2 *s, uint64_t cluster)
{
    struct writer *w = s->w;
    w->cursor = MIN(w->cursor, cluster);
    if (cluster >= w->zero_from)
        w->zero_to = MIN(w->zero_to, cluster);
    if (w->pack >> s->cluster_bits == cluster)
        w->pack = 0;
    clusters_forget(s, cluster << s->cluster_bits, cluster_size(s));
}

static int co_drop_one(struct qcow2 *s, uint64_t cluster, bool shared)
{
    struct ref_slice *slice;
    int r = co_ref_slice(s, cluster, &slice);
    if (r)
        return r;
    uint64_t v = slice ? ref_get(s, slice, cluster) : 0;
    if (!v)
        return qcow2_corruption(s, cluster << s->cluster_bits, "Refcount of a cluster in use is 0");
    if (v == 1 && shared)
        return 0;
    ref_set(s, slice, cluster, v - 1);
    if (v == 1)
        now_free(s, cluster);
    return 0;
}

int co_ref_drop(struct qcow2 *s, uint64_t cluster, uint64_t count, bool shared)
{
    int r = 0;
    for (uint64_t end = cluster + count; cluster < end && !r; cluster++)
        r = co_drop_one(s, cluster, shared);
    return r;
}

void co_unalloc(struct qcow2 *s, uint64_t host, uint64_t len)
{
    uint64_t first = host >> s->cluster_bits;
    co_mutex_lock(&s->w->alloc);
    if (co_ref_drop(s, first, last_cluster(s, host, len) - first + 1, false))
        log_limited("qcow2", "node %s: clusters are lost", s->node->name);
    co_mutex_unlock(&s->w->alloc);
}

bool free_room(const struct qcow2 *s, uint64_t entries)
{
    return entries <= QCOW2_FREES - s->w->npending;
}

void free_later(struct qcow2 *s, struct freed f)
{
    struct writer *w = s->w;
    struct freed *last = w->npending ? &w->pending[w->npending - 1] : NULL;
    w->pending_since = w->changes + 1;
    if (last && last->first + last->count == f.first && last->discard == f.discard &&
        last->shared == f.shared && f.count <= UINT32_MAX - last->count) {
        last->count += f.count;
        return;
    }
    ASSERT(w->npending < QCOW2_FREES);
    w->pending[w->npending++] = f;
}

/* ---- reclaiming ---- */

bool frees_committed(struct qcow2 *s)
{
    struct writer *w = s->w;
    if (w->nready || !w->npending || (w->pending_since > w->committed && !MUTANT(FREE_AT_ONCE)))
        return false;
    struct freed *empty = w->ready;
    w->ready = w->pending;
    w->nready = w->npending;
    w->pending = empty;
    w->npending = 0;
    __atomic_store_n(&s->epoch, s->epoch ^ 1, __ATOMIC_RELEASE);
    return true;
}

static unsigned old_requests(const struct qcow2 *s)
{
    unsigned n = 0;
    for (unsigned i = 0; i < loop_count(); i++)
        n += __atomic_load_n(&s->io[i].n[s->epoch ^ 1], __ATOMIC_ACQUIRE);
    return n;
}

static void co_grace(struct qcow2 *s)
{
    if (MUTANT(FREE_NO_GRACE))
        return;
    co_l2_wait_readers();
    while (old_requests(s))
        co_sleep_ns(GRACE_NS);
}

/* How many of `f`, from the first on, can be discarded: within a slice, and this is their last
 * reference. With alloc held. */
static int co_last_refs(struct qcow2 *s, const struct freed *f, uint64_t *n)
{
    struct ref_slice *slice;
    *n = 0;
    if (!f->discard || f->shared)
        return 0;
    int r = co_ref_slice(s, f->first, &slice);
    if (r || !slice)
        return r;
    uint64_t end = MIN(f->first + f->count, slice->first + (1ull << s->w->refs.slice_bits));
    while (f->first + *n < end && ref_get(s, slice, f->first + *n) == 1)
        ++*n;
    if (s->w->pack >> s->cluster_bits >= f->first && s->w->pack >> s->cluster_bits < f->first + *n)
        s->w->pack = 0; /* nothing more goes there */
    return 0;
}

/* The first few of `f`: those that can be discarded, else one. What is discarded is counted until
 * that is done, so nobody takes it; and nobody who takes others waits for it. */
static int co_free_some(struct qcow2 *s, struct freed *f)
{
    uint64_t n;
    co_mutex_lock(&s->w->alloc);
    int r = co_last_refs(s, f, &n);
    if (!r && n) {
        co_mutex_unlock(&s->w->alloc);
        (void)co_blk_pdiscard(s->node->file, f->first << s->cluster_bits, n << s->cluster_bits);
        co_mutex_lock(&s->w->alloc);
    }
    n = n ? n : f->discard && !f->shared ? 1 : f->count;
    if (!r)
        r = s->corrupt ? SR_EIO : co_ref_drop(s, f->first, n, f->shared);
    co_mutex_unlock(&s->w->alloc);
    f->first += n;
    f->count -= (uint32_t)n;
    return r;
}

/* What fails is lost, and the rest goes on. */
static int co_free_runs(struct spread *p)
{
    struct qcow2 *s = p->s;
    int r = 0;
    while (p->next < s->w->nready && !s->corrupt) {
        struct freed f = s->w->ready[p->next++];
        int e = 0;
        while (f.count && !e)
            e = co_free_some(s, &f);
        r = r ? r : e;
    }
    return r;
}

static void sort(struct freed *f, unsigned n)
{
    for (unsigned gap = n / 2; gap; gap /= 2)
        for (unsigned i = gap, k; i < n; i++) {
            struct freed x = f[i];
            for (k = i; k >= gap && f[k - gap].first > x.first; k -= gap)
                f[k] = f[k - gap];
            f[k] = x;
        }
}

/* Does a cluster lose several references at once? */
static bool several(const struct freed *f, unsigned n)
{
    uint64_t end = 0;
    for (unsigned i = 0; i < n; i++) {
        if (f[i].first < end)
            return true;
        end = f[i].first + f[i].count;
    }
    return false;
}

/* Pieces of one packed cluster, or entries that lie: who drops a reference must not meet one that a new
 * owner has made meanwhile. So nobody takes anything until all is done. */
static int co_free_together(struct qcow2 *s)
{
    struct writer *w = s->w;
    int r = 0;
    co_mutex_lock(&w->alloc);
    for (unsigned i = 0; i < w->nready && !s->corrupt; i++)
        for (struct freed f = w->ready[i]; f.count; f.first++, f.count--) {
            uint64_t n;
            int e = co_last_refs(s, &(struct freed){f.first, 1, f.discard, f.shared}, &n);
            if (!e)
                e = co_ref_drop(s, f.first, 1, f.shared);
            if (!e && n)
                (void)co_blk_pdiscard(s->node->file, f.first << s->cluster_bits, cluster_size(s));
            r = r ? r : e;
        }
    co_mutex_unlock(&w->alloc);
    return r;
}

static void co_drop_ready(struct qcow2 *s)
{
    struct writer *w = s->w;
    sort(w->ready, w->nready);
    int r =
        several(w->ready, w->nready) ? co_free_together(s) : co_spread(s, co_free_runs, w->nready);
    w->nready = 0;
    if (r)
        log_limited("qcow2", "node %s: clusters are lost", s->node->name);
}

static int co_reclaim_ready(struct qcow2 *s)
{
    int r = MUTANT(FREE_NO_FLUSH) ? 0 : co_blk_flush(s->node->file);
    if (r)
        return r;
    co_grace(s);
    co_drop_ready(s);
    return 0;
}

static void co_reclaim(void *arg)
{
    struct qcow2 *s = arg;
    struct writer *w = s->w;
    int r = 0;
    while (w->nready && !r) {
        r = co_reclaim_ready(s);
        if (!r)
            frees_committed(s);
    }
    w->reclaim_error = r;
    w->reclaiming = false;
    co_queue_wake_all(&w->reclaim_wait);
}

void reclaim_start(struct qcow2 *s)
{
    struct writer *w = s->w;
    if (!w->nready || w->reclaiming)
        return;
    w->reclaiming = true;
    co_start_child(&w->reclaim_start, co_reclaim, s); /* who waits for it has a stack */
}

void co_reclaim_wait(struct qcow2 *s)
{
    frees_committed(s);
    reclaim_start(s);
    while (s->w->reclaiming)
        co_queue_wait(&s->w->reclaim_wait);
}
