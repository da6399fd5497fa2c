/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * L2 tables of snapshots. Nobody reads them here, but whoever writes has to know where they lie: an
 * entry that says "ours alone" and names one of them would give it to the guest, and a refcount of 0
 * would give it to the allocator.
 *
 *     snapshot -> L1 table -> entry -> cluster --+
 *     snapshot -> L1 table -> entry -> cluster --+--> set of clusters: open addressing, PROBES at most
 *
 * The L1 tables are read once, when the image is opened for writing. What they name can be much, and
 * nonsense: of tables more than READ_MAX bytes long, or that do not fit the set, the rest is not known
 * (and a line says so). The set never changes: a snapshot's table stays where it is while it exists.
 */
#include "formats/qcow2/writer.h"

#define READ_MAX (64u << 20)
#define STEP     (64u << 10)
#define PROBES   64u

static uint64_t slot(const struct writer *w, uint64_t cluster, unsigned probe)
{
    uint64_t home = cluster * 0x9e3779b97f4a7c15ull >> w->inactive_shift;
    return (home + probe) & ((1ull << (64 - w->inactive_shift)) - 1);
}

bool inactive_has(const struct qcow2 *s, uint64_t cluster)
{
    const struct writer *w = s->w;
    for (unsigned i = 0; w->inactive && i < PROBES; i++) {
        uint64_t there = w->inactive[slot(w, cluster, i)];
        if (there == cluster || !there)
            return there;
    }
    return false;
}

/* false: there is no room. */
static bool add(struct writer *w, uint64_t cluster)
{
    for (unsigned i = 0; i < PROBES; i++) {
        uint64_t *there = &w->inactive[slot(w, cluster, i)];
        if (*there && *there != cluster)
            continue;
        *there = cluster;
        return true;
    }
    return false;
}

/* An offset that cannot be a table's is the snapshot's own trouble. */
static bool add_all(struct qcow2 *s, const be64 *l1, size_t n)
{
    bool all = true;
    for (size_t i = 0; i < n; i++) {
        uint64_t host = be64_get(l1[i]) & QCOW2_OFFSET_MASK;
        if (host && !(host & s->cluster_mask))
            all &= add(s->w, host >> s->cluster_bits);
    }
    return all;
}

static int co_add_table(struct qcow2 *s, const struct qcow2_l1 *t, be64 *buf, uint64_t *budget,
                        bool *all)
{
    uint64_t len = MIN(t->bytes, *budget);
    int r = 0;
    *all &= len == t->bytes;
    for (uint64_t at = 0; at < len && !r; at += STEP) {
        size_t n = (size_t)MIN(len - at, STEP);
        r = co_blk_pread(s->node->file, t->offset + at, buf, n);
        if (!r)
            *all &= add_all(s, buf, n / 8);
    }
    *budget -= len;
    return r;
}

static int take_set(struct qcow2 *s)
{
    struct writer *w = s->w;
    uint64_t entries = 0, most = MAX(page_free_bytes() / 16 / 8, 512u);
    for (uint32_t i = 0; i < w->nb_snapshots; i++)
        entries += w->snapshot_l1[i].bytes / 8;
    unsigned log = log2_floor(MAX(MIN(entries * 4, most), 512u));
    w->inactive_shift = 64 - log;
    w->inactive = fault(FAULT_ALLOC) ? NULL : page_alloc_zeroed(8ull << log);
    return w->inactive ? 0 : SR_ENOMEM;
}

int co_inactive_open(struct qcow2 *s, struct error *err)
{
    struct writer *w = s->w;
    uint64_t budget = READ_MAX;
    bool all = true;
    if (!w->nb_snapshots)
        return 0;
    be64 *buf = fault(FAULT_ALLOC) ? NULL : page_alloc(STEP);
    int r = buf ? take_set(s) : SR_ENOMEM;
    for (uint32_t i = 0; i < w->nb_snapshots && !r; i++)
        r = co_add_table(s, &w->snapshot_l1[i], buf, &budget, &all);
    if (buf)
        page_free(buf, STEP);
    if (r)
        return error_set(err, r, "Could not read the snapshots' L1 tables: %s", sr_strerror(r));
    if (!all)
        log_line("qcow2", "node %s: not all tables of its snapshots are known", s->node->name);
    return 0;
}

void inactive_close(struct qcow2 *s)
{
    if (s->w->inactive)
        page_free(s->w->inactive, 8ull << (64 - s->w->inactive_shift));
}
