/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef FORMATS_QCOW2_QCOW2_H
#define FORMATS_QCOW2_QCOW2_H
/*
 * formats/qcow2/: the qcow2 driver; this header is for its own files only. Versions 2 and 3.
 *
 *     header.c    header and extensions: parsed and checked    snapshot.c  the table is walked
 *     open.c      driver table, options, opening, closing      read.c      reads
 *     l2.c        cache of L2 slices                           status.c    block status
 *     map.c       guest offset -> extent                       cluster.c   decompressed clusters
 *     squeeze.c   clusters compressed for writing
 *
 *     write.c     writes: in place, or to new clusters         refcount.c  refcount table and blocks
 *     link.c      entries change: new clusters, zeroes         alloc.c     clusters found and freed
 *     commit.c    changed metadata goes to the file in order   update.c    bits in the header
 *     verify.c    slices looked through before                 copy.c      room for copies
 *     inactive.c  snapshots' L2 tables: where they lie
 *
 *     check.c, check_walk.c, repair.c, check.h    whole images, with no node above them
 *
 * Units: bytes; "guest" offsets are in the virtual disk, "host" offsets in the image file (or the
 * external data file). Context: see each function; what is called from the data path neither
 * allocates nor locks. Errors: 0 or SR_E*; what an image says wrong in its tables is SR_EIO for the
 * request that meets it, and one rate-limited line.
 */
#include "blk/blk.h"
#include "formats/compress.h"
#include "formats/qcow2/qcow2_spec.h"

/* ---- header.c ---- */

/* What the header and its extensions say, checked. */
struct qcow2_image {
    unsigned version, cluster_bits, refcount_order;
    uint64_t size, incompatible, compatible, autoclear;
    uint64_t l1_offset, snapshots_offset, reftable_offset, reftable_bytes;
    uint64_t snapshots_bytes;
    struct qcow2_l1 {
        uint64_t offset, bytes;
    } * snapshot_l1; /* [nb_snapshots], whoever parsed frees it; NULL: not looked at */
    /* Directory; none when the image says that it is stale. */
    uint64_t bitmaps_offset, bitmaps_bytes;
    uint32_t l1_size, nb_snapshots, nb_bitmaps;
    enum compression compression;
    bool has_backing, has_format, has_data_file;
    char backing[QCOW2_MAX_NAME + 1], format[16], data_file[QCOW2_MAX_NAME + 1];
};
/* `head`: the first `len` bytes of an image of file_size bytes. SR_EINVAL or SR_ENOTSUP with err. */
int qcow2_parse_header(struct qcow2_image *img, const uint8_t *head, size_t len, uint64_t file_size,
                       struct error *err);
/* The same for a check: the refcount table may be anywhere. */
int qcow2_parse_header_to_repair(struct qcow2_image *img, const uint8_t *head, size_t len,
                                 uint64_t file_size, struct error *err);
/* Enough for every header seen in the wild; extensions behind it are refused. */
#define QCOW2_HEAD_MAX (64u << 10)

/* ---- l2.c ---- */

struct l2_slice;
struct l2_cache {
    struct l2_slice **bucket; /* [mask + 1] */
    uint64_t mask;
    struct l2_slice *slices;
    unsigned count, hand;
    size_t slice_size;
    void *mem; /* all of it: one run of pages */
    size_t mem_size;
    struct co_queue waiting; /* for a slice that is not being loaded */
    struct list dirty;       /* slices whose entries the file does not have */
    unsigned ndirty;
};
struct qcow2;
/* `bytes`: wanted, 0: as RAM allows; no more than `most` slices are of use. SR_ENOMEM. */
int l2_open(struct l2_cache *c, size_t slice_size, uint64_t bytes, uint64_t most);
void l2_close(struct l2_cache *c);
/* Slice `key`, or NULL; any loop; not to be kept across a yield. */
static inline struct l2_slice *l2_lookup(const struct l2_cache *c, uint64_t key);
/* Reads slice `key` from `host`; 0: it was there a moment ago. Home loop. */
int co_l2_load(struct qcow2 *s, uint64_t key, uint64_t host);
/* Readers on other loops that found something before this began have used it when it returns. */
void co_l2_wait_readers(void);

struct l2_slice {
    struct l2_slice *next; /* of the same bucket */
    uint64_t key;
    be64 *entries;
    bool used __attribute__((aligned(8))); /* since the hand came by; any loop writes it */
    bool writable; /* looked through (verify.c), and its table is ours alone; any loop reads it */
    bool published __attribute__((aligned(8))); /* in its bucket */
    bool loading;
    bool dirty;          /* stays where it is until it is written */
    uint64_t load_key;   /* what is being loaded; `key` stays until no reader looks at it */
    struct list waiters; /* struct flight, while loading */
    struct list link;    /* of the dirty ones */
};

static inline struct l2_slice *l2_lookup(const struct l2_cache *c, uint64_t key)
{
    struct l2_slice *s = __atomic_load_n(&c->bucket[key & c->mask], __ATOMIC_ACQUIRE);
    while (s && unlikely(__atomic_load_n(&s->key, __ATOMIC_RELAXED) != key))
        s = __atomic_load_n(&s->next, __ATOMIC_ACQUIRE);
    if (unlikely(!s))
        return NULL;
    if (unlikely(!__atomic_load_n(&s->used, __ATOMIC_RELAXED)))
        __atomic_store_n(&s->used, true, __ATOMIC_RELAXED);
    return s;
}
/* Home loop. At most l2_may_dirty() slices are dirty, so that readers always find others. */
static inline void l2_set_dirty(struct l2_cache *c, struct l2_slice *s)
{
    if (s->dirty)
        return;
    s->dirty = true;
    c->ndirty++;
    list_append(&c->dirty, &s->link);
}
static inline bool l2_may_dirty(const struct l2_cache *c, const struct l2_slice *s)
{
    return s->dirty || c->ndirty + 2 < c->count;
}

/* Entries of L1 and L2 tables change on the home loop, one word at a time, and any loop reads them. */
static inline uint64_t entry_get(const be64 *at)
{
    uint64_t word = __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_RELAXED);
    be64 entry;
    memcpy(&entry, &word, sizeof(entry));
    return be64_get(entry);
}
static inline void entry_set(be64 *at, uint64_t entry)
{
    be64 v;
    uint64_t word;
    be64_set(&v, entry);
    memcpy(&word, &v, sizeof(word));
    __atomic_store_n((uint64_t *)(void *)at, word, __ATOMIC_RELAXED);
}
/* The file, or data file, becomes longer meanwhile. */
static inline uint64_t size_of(const struct child *c)
{
    return __atomic_load_n(&c->node->size, __ATOMIC_RELAXED);
}

/* ---- the node ---- */

struct cluster_set;
struct writer;
struct qcow2 {
    /* What every read looks at. */
    struct l2_cache l2;
    unsigned slice_shift;  /* log2 of the guest bytes that a slice maps */
    unsigned cluster_bits; /* log2 of the cluster size */
    uint64_t cluster_mask; /* cluster size - 1 */
    uint64_t index_mask;   /* entries of a slice - 1 */
    uint64_t not_plain;    /* bits that an entry of an ordinary data cluster has not */
    uint64_t not_in_place; /* ... of one that is written where it is; all: look closely */
    unsigned epoch;        /* 0 or 1: of the requests that begin now */
    struct child *data;    /* where data clusters are: the file, or the data file */
    bool extended;         /* L2 entries have a subcluster bitmap */
    bool external, raw;    /* data file; and it has to read as the disk does */
    unsigned version;
    unsigned l2_shift;    /* log2 of the guest bytes that an L2 table maps */
    unsigned csize_shift; /* where the length is in the entry of a compressed cluster */
    be64 *l1;             /* [l1_entries], as on the disk: those that the size needs */
    uint64_t l1_entries;
    struct cluster_set *clusters;
    char *squeeze; /* a cluster and the compressor's state; NULL: none was compressed yet */
    struct node *node;
    struct writer *w; /* NULL: read-only */
    bool corrupt;     /* something was seen that forbids writing */
    struct qcow2_io {
        unsigned n[2]; /* requests under way, by epoch */
    } __attribute__((aligned(CACHE_LINE))) io[MAX_LOOPS];
    /* For queries. */
    enum compression compression;
    unsigned refcount_bits;
    uint64_t incompatible, compatible;
    char *data_file; /* name in the header, or NULL */
};
extern const struct blk_driver blk_qcow2;

/* Around every look at the mapping and the I/O that follows from it, on the same loop: a cluster that
 * an entry does not name any more is another's only when everyone who may have found it before has
 * ended. Who is in between waits for I/O, never for a commit or for space. */
static inline unsigned qcow2_io_begin(struct qcow2 *s)
{
    unsigned e = __atomic_load_n(&s->epoch, __ATOMIC_ACQUIRE), *n = &s->io[loop_id()].n[e];
    __atomic_store_n(n, *n + 1, __ATOMIC_RELAXED);
    return e;
}
static inline void qcow2_io_end(struct qcow2 *s, unsigned e)
{
    unsigned *n = &s->io[loop_id()].n[e];
    __atomic_store_n(n, *n - 1, __ATOMIC_RELEASE);
}

/* ---- map.c ---- */

enum extent_type { EXTENT_UNALLOCATED, EXTENT_ZERO, EXTENT_DATA, EXTENT_COMPRESSED };
struct extent {
    enum extent_type type;
    uint32_t csize; /* COMPRESSED: bytes in the file, from `host` */
    uint64_t len;   /* of guest bytes; COMPRESSED: to the end of the cluster at most */
    uint64_t host;  /* DATA, COMPRESSED */
};
/* What [off, ...) is, from memory only: SR_EAGAIN when a slice is missing (its place in the file is
 * *host then). Ends at the end of a slice; may be longer than `len`. Any loop. */
int qcow2_map(struct qcow2 *s, uint64_t off, uint64_t len, struct extent *e, uint64_t *host);
/* May [off, off + len) be written where it is, as one piece at *host? No: look closely. Any loop. */
bool qcow2_map_in_place(const struct qcow2 *s, uint64_t off, size_t len, uint64_t *host);
/* Where the slice of `off` lies in the file; 0: there is no table. Any loop. */
int qcow2_slice_host(const struct qcow2 *s, uint64_t off, uint64_t *host);
/* The same with what it takes, and across slices; join_compressed: for those who do not read. Any
 * loop. */
int co_qcow2_map(struct qcow2 *s, uint64_t off, uint64_t len, bool join_compressed,
                 struct extent *e);

/* ---- check.c, repair.c: whole images; control path ---- */

/* fix: BLK_FIX_*. `file` must be writable then. Negative, with err: not finished. */
int co_qcow2_check(struct child *file, unsigned fix, struct blk_check *res, struct error *err);
/* The dirty bit is set: refcounts are computed anew, and the bit is cleared. 0: every refcount is right
 * (entries may be in error; the bit is still set then), else writing is not safe. */
int co_qcow2_repair_open(struct child *file, struct error *err);

/* create.c: a new image; control path */
extern const struct type qcow2_create_type;
int co_qcow2_create(struct child *file, const void *opts, struct error *err);

/* ---- the rest ---- */

/* ... and measured; where their L1 tables are is in img->snapshot_l1 (sr_free). */
int co_qcow2_check_snapshots(struct child *file, struct qcow2_image *img, struct error *err);
int co_qcow2_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags);
int co_qcow2_block_status(struct node *n, uint64_t off, uint64_t len, struct blk_status *st);

/* Reads what a guest would, on the home loop. */
int co_qcow2_read_home(struct node *n, uint64_t off, struct iov v);
int co_qcow2_pwritev(struct node *n, uint64_t off, struct iov v, unsigned flags);
int co_qcow2_pwrite_zeroes(struct node *n, uint64_t off, uint64_t len, unsigned flags);
int co_qcow2_pdiscard(struct node *n, uint64_t off, uint64_t len);
int co_qcow2_flush(struct node *n);

/* cluster.c: bytes of a compressed cluster, from `in` on. Home loop. */
int co_cluster_read(struct qcow2 *s, const struct extent *e, uint64_t in, struct iov v);
/* Images that lie in an image have a workspace of their own. SR_ENOMEM. */
int clusters_open(struct qcow2 *s);
void clusters_close(struct qcow2 *s);
/* Those that begin in [host, host + len) are no longer what they were: before new bytes are written
 * there. */
void clusters_forget(struct qcow2 *s, uint64_t host, uint64_t len);
/* Room for one cluster (page-aligned), for squeeze.c. */
struct workspace *co_workspace_borrow(struct qcow2 *s, void **room);
void workspace_return(struct qcow2 *s, struct workspace *w);

/* squeeze.c: clusters compressed for writing. Home loop. */
struct squeezed {
    struct workspace *w;
    const void *data; /* page-aligned, shorter than a cluster */
    size_t len;
};
/* Compresses v: a guest cluster, or less at the end of the disk. SR_ENOSPC: it does not become
 * shorter, store it as it is. SR_ENOMEM. On 0 the bytes are held until squeeze_done(): meanwhile the
 * caller reads no guest data and waits for no other request of this image, so overlapping writes were
 * waited for before. */
int co_squeeze(struct qcow2 *s, struct iov v, struct squeezed *z);
void squeeze_done(struct qcow2 *s, struct squeezed *z);
void squeeze_close(struct qcow2 *s);

/* ---- one load, many who wait for it (same loop) ---- */

struct flight {
    struct list link;
    struct co *co;
    bool landed;
    int result;
};
static inline int co_flight_join(struct list *waiters)
{
    struct flight f = {.co = co_self()};
    list_append(waiters, &f.link);
    while (!f.landed)
        co_yield ();
    return f.result;
}
static inline void flight_land(struct list *waiters, int result)
{
    struct flight *f;
    while ((f = list_first(waiters, struct flight, link))) {
        list_remove(&f->link);
        f->result = result;
        f->landed = true;
        co_wake(f->co);
    }
}
#endif
