/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef FORMATS_QCOW2_WRITER_H
#define FORMATS_QCOW2_WRITER_H
/*
 * What the writing half of formats/qcow2/ shares. Home loop only, unless said otherwise; nothing here
 * allocates after co_writer_open.
 *
 * Units: a `cluster` is a number (host offset >> cluster_bits); everything else is bytes. Errors: 0 or
 * SR_E*. Locks, in order of acquisition: tables, alloc; a commit takes neither.
 */
#include "formats/qcow2/qcow2.h"
#include "kernel/mutant.h"

/* ---- refcount.c: alloc is held ---- */

/* A part of a refcount block. */
struct ref_slice {
    uint64_t first; /* the cluster that its first entry counts */
    uint8_t *data;
    bool valid, used, dirty, writing;
};
struct refcounts {
    be64 *table; /* as in the file */
    uint64_t table_offset, entries;
    uint64_t old_first, old_clusters; /* a table that the header may still name; none: 0 */
    unsigned order, block_bits,
        slice_bits; /* log2: bits of an entry; clusters per block, per slice */
    struct ref_slice *slices;
    unsigned count, hand, last;
    size_t slice_size;
    void *mem;
    size_t mem_size;
    struct co_queue written; /* slices */
};
int co_refcounts_open(struct qcow2 *s, const struct qcow2_image *img, struct error *err);
void refcounts_close(struct qcow2 *s);
/* The slice that counts `cluster`, not to be kept across a yield. NULL: there is no block, all are 0. */
int co_ref_slice(struct qcow2 *s, uint64_t cluster, struct ref_slice **out);
/* A block for `cluster`, which has none, is made; it may take `cluster` itself. */
int co_ref_new_block(struct qcow2 *s, uint64_t cluster);
uint64_t ref_get(const struct qcow2 *s, const struct ref_slice *r, uint64_t cluster);
bool ref_cached(const struct qcow2 *s, uint64_t cluster);
void ref_set(struct qcow2 *s, struct ref_slice *r, uint64_t cluster, uint64_t value);
uint64_t ref_max(const struct qcow2 *s);
/* The header names the table that is in use. Before anything relies on it. */
int co_refs_switch(struct qcow2 *s);
/* The same, without alloc. */
int co_refs_settle(struct qcow2 *s);
/* Without alloc: every slice that was dirty when this began is in the file. */
int co_refs_write(struct qcow2 *s);

/* ---- alloc.c ---- */

#define QCOW2_FREES 512u
/* Clusters that lost a reference: `count` from `first` on, one each. */
struct freed {
    uint64_t first;
    uint32_t count;
    bool discard; /* what becomes free is discarded below */
    bool shared;  /* not COPIED: others name it, too, and it does not become free */
};
struct found {
    uint64_t host, count; /* clusters, adjacent */
    bool zeroed;          /* they read as zeroes */
    uint64_t aside;       /* alloc.c: as many more are behind them, set aside */
};
/* At most `want` clusters, refcount 1, adjacent, for the guest's cluster number `guest` and those that
 * follow (UINT64_MAX: for other things); zeroed: wanted so, if that is cheap. SR_ENOSPC after all that
 * was freed has been used again. */
int co_alloc(struct qcow2 *s, uint64_t guest, uint64_t want, bool zeroed, struct found *f);
/* Where a write to new clusters ended, and clusters set aside for those who go on there. */
#define QCOW2_TRAILS 8u
struct trail {
    uint64_t guest, host, end; /* clusters; host..end are set aside */
    uint64_t ahead, seen;
    bool zeroed;
};
/* `len` bytes for a compressed cluster, less than a cluster. Waits for no freed space: SR_ENOSPC. */
int co_alloc_packed(struct qcow2 *s, size_t len, uint64_t *host);
/* After SR_ENOSPC: waits for freed space; 0 when there may be some now. */
int co_make_room(struct qcow2 *s);
/* Back at once: no entry ever named them. */
void co_unalloc(struct qcow2 *s, uint64_t host, uint64_t len);
/* With alloc held: takes a reference from each; shared: but not the last one. */
int co_ref_drop(struct qcow2 *s, uint64_t cluster, uint64_t count, bool shared);
/* A file size: whole clusters, and whole blocks of what is below. */
uint64_t file_round(const struct qcow2 *s, uint64_t size);
/* With alloc held: the file has room for clusters below `end`. SR_ENOSPC. */
int co_grow(struct qcow2 *s, uint64_t end);
/* Later, when the change that comes with it is committed and stable. There is room: free_room(). */
void free_later(struct qcow2 *s, struct freed f);
bool free_room(const struct qcow2 *s, uint64_t entries);
/* Waits until what is committed was freed. */
void co_reclaim_wait(struct qcow2 *s);
/* Called by a commit, with linking shut: what is pending is ready now. True: call reclaim_start. */
bool frees_committed(struct qcow2 *s);
void reclaim_start(struct qcow2 *s);
static inline uint64_t last_cluster(const struct qcow2 *s, uint64_t host, uint64_t len)
{
    return (host + len - 1) >> s->cluster_bits;
}

/* ---- commit.c ---- */

/* Everything that was linked is in the file, in order; stable is another matter. */
int co_qcow2_commit(struct qcow2 *s);
/* ... and stable. */
int co_commit_stable(struct qcow2 *s);
/* Entries may change now, until the next yield. */
void co_wait_link(struct qcow2 *s);
void l1_set(struct qcow2 *s, uint64_t index, uint64_t entry);
/* The entry of `off`, found in `slice`, is in the file, and so is the way to it. */
bool entry_written(const struct qcow2 *s, const struct l2_slice *slice, uint64_t off);

/* Work side by side: `co_work` runs here and in a few more coroutines, as many as `jobs` and the stacks
 * allow; each takes the next job that nobody has taken, until there is none. */
struct spread {
    struct qcow2 *s;
    int (*co_work)(struct spread *p);
    unsigned next; /* job */
    struct co_join join;
};
int co_spread(struct qcow2 *s, int (*co_work)(struct spread *p), unsigned jobs);

/* ---- link.c ---- */

/* The slice of `off`, in a table that is ours alone; not to be kept across a yield. */
int co_slice(struct qcow2 *s, uint64_t off, struct l2_slice **out);
/* The same, and until the next yield it may be changed, and `entries` runs of clusters freed. Then:
 * l2_set_dirty, changes++. */
int co_slice_for_write(struct qcow2 *s, uint64_t off, uint64_t entries, struct l2_slice **out);
/* Makes room for frees. */
int co_free_frees(struct qcow2 *s);
/* A write to new clusters under way in [start, end), or NULL. */
struct alloc_op *alloc_overlap(struct qcow2 *s, uint64_t start, uint64_t end);
void entry_free(struct qcow2 *s, uint64_t entry, bool discard);
#define QCOW2_CHANGE_MOST 256u /* clusters whose entries change at once */

/* ---- write.c ---- */

/* At the end of a change: what FUA and SETTLED ask for. */
int co_qcow2_promise(struct qcow2 *s, unsigned flags);

/* ---- copy.c ---- */

/* A buffer of w->copy_size bytes; waits for one of this image only. */
struct copy {
    char *data;
    struct copy_buf *pooled;
};
void co_copy_get(struct qcow2 *s, struct copy *c);
void copy_put(struct qcow2 *s, struct copy *c);
int copy_open(struct qcow2 *s);
void copy_close(struct qcow2 *s);
/* copy_size zeroes, to write from. */
extern char *qcow2_zeroes;

/* ---- update.c ---- */

/* Before the first change: what the image says about itself and would not be true any more. */
int co_prepare(struct qcow2 *s);
int co_header_switch_refcounts(struct qcow2 *s, uint64_t table, uint64_t clusters);
int co_set_dirty(struct qcow2 *s, bool dirty);
/* Something that cannot be: no more writing, the corrupt bit, an event. Returns SR_EIO. */
int qcow2_corruption(struct qcow2 *s, uint64_t off, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* ---- verify.c ---- */

bool verified(const struct qcow2 *s, uint64_t key);
/* Looks through a slice that was not. SR_EAGAIN: it went away before all
 * of it was seen. 0: it may be gone now. */
int co_verify(struct qcow2 *s, struct l2_slice *slice);
/* Before refcounts in the block at `host` are believed. */
int verify_block(struct qcow2 *s, uint64_t host);
/* Entries of L1 and refcount tables, and snapshots, that were compared. For tests. */
extern uint64_t verify_scanned;
/* A cluster becomes an L2 table, or a refcount block. */
void verify_note(struct qcow2 *s, uint64_t host);
int verify_open(struct qcow2 *s, struct error *err);
void verify_close(struct qcow2 *s);

/* ---- inactive.c ---- */

/* Is this cluster an L2 table of a snapshot? */
bool inactive_has(const struct qcow2 *s, uint64_t cluster);
int co_inactive_open(struct qcow2 *s, struct error *err);
void inactive_close(struct qcow2 *s);

/* ---- writer.c ---- */

int co_writer_open(struct qcow2 *s, struct qcow2_image *img, struct error *err);
/* Orderly: what is pending is freed, refcounts are written, the bits cleared. */
void co_writer_close(struct qcow2 *s);
void writer_free(struct qcow2 *s);

/* A write to new clusters that is under way: its guest range, whole clusters. */
struct alloc_op {
    struct list link;
    uint64_t start, end;
    struct co_queue waiting;
};

struct writer {
    bool prepared; /* nothing was written before that */
    bool lazy, dirty_bit;
    unsigned below;           /* BLK_SETTLED, when the data's node has metadata of its own */
    struct co_mutex features; /* the header's field */
    uint64_t autoclear;

    struct co_mutex alloc;
    struct refcounts refs;
    /* Every cluster below `cursor` is used, or set aside. [zero_from, zero_to) reads as zeroes and is free. */
    uint64_t cursor, zero_from, zero_to;
    bool fixed, no_zero; /* the file does not grow; it cannot zero by itself */
    bool grown;          /* it did, behind what is used */
    struct trail trails[QCOW2_TRAILS];
    uint64_t seen;
    uint64_t pack; /* host offset where the next compressed cluster may begin; 0: none */

    /* Changes of entries: made, written, stable. */
    uint64_t changes, committed, stable;
    bool committing, gathering;
    struct co_queue commit_wait;
    uint64_t *l1_dirty; /* bitmap of sectors of the L1 table */
    uint64_t l1_sectors, l1_offset, snapshots_offset, snapshots_bytes;
    struct qcow2_l1 *snapshot_l1; /* in order, apart from each other (verify_open) */
    uint32_t nb_snapshots;
    struct co_mutex tables; /* one L2 table is made at a time */
    struct list allocs;     /* struct alloc_op */

    /* Freed by changes that are not committed; by those that are. */
    struct freed lists[2][QCOW2_FREES], *pending, *ready;
    unsigned npending, nready;
    uint64_t pending_since; /* `changes` of the last of them */
    bool reclaiming;
    int reclaim_error;
    struct co_start reclaim_start;
    struct co_queue reclaim_wait;

    /* Room for copies: one buffer of its own, others from a pool. */
    char *copy;
    size_t copy_size;
    bool copy_taken;
    struct co_queue copy_wait;

    uint64_t *meta, *twice; /* filters: clusters with tables; those noted once more */
    uint64_t meta_salt;
    uint64_t *verified; /* bitmap: slices looked through */
    unsigned meta_shift;
    size_t meta_bytes;
    uint64_t nverified;
    uint64_t *inactive; /* set of clusters; NULL: no snapshots */
    unsigned inactive_shift;

    struct co_start mark_start; /* of the corrupt bit */
    bool marking;
    struct co_queue mark_wait;
};
#endif
