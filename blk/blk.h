/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLK_BLK_H
#define BLK_BLK_H
/*
 * blk/: the block graph. Nodes (an open driver each) linked by children; exports, jobs and format
 * writers are the origins of requests. It knows no format, controller, protocol or command by name.
 *
 * Units: offsets and lengths are bytes, 64 bits. A node's size is a byte count and may be any
 * number; reads behind it fail, as do writes (a growable node is resized, never written past its
 * end). Alignment and limits are the driver's (struct blk_limits), and only this layer enforces
 * them: a driver may assume range, alignment, segment count, transfer size and write permission;
 * after the call the layer checks what the driver promised. One exception to range: when the size
 * is no multiple of request_alignment, the last block of a request may reach behind the end, up to
 * the next multiple: there the driver gives zeroes, and takes bytes to forget or to keep.
 *
 * Context: every co_ function of the data path runs on any loop, inside the gate of the request's
 * origin. Control-path code (a driver's co_open) needs none: control operations run one after the
 * other on loop 0, and only they change the graph, under drain; so requests follow pointers without
 * lock, atomic or reference count. Buffers (struct iov) are borrowed until the call returns.
 *
 * Errors: 0 or SR_E*; outside of [0, size) SR_EIO; through an edge that may not write SR_EPERM. A
 * request is never cancelled from above.
 */
#include "kernel/kernel.h"
#include "kernel/command.h"

struct node;
struct child;

/* ---- Requests ---- */

/* QEMU's meanings (BDRV_REQ_*). */
enum blk_flags {
    BLK_FUA = 1,         /* complete only when on stable storage */
    BLK_MAY_UNMAP = 2,   /* write-zeroes: may deallocate */
    BLK_NO_FALLBACK = 4, /* write-zeroes: SR_ENOTSUP rather than writing a buffer of zeroes */
    BLK_COMPRESSED = 8,
    BLK_SERIALISING = 16, /* wait for, and hold back, every overlapping write; the node must be
                             tracked (co_node_track) */
    BLK_WRITE_UNCHANGED = 32,
    BLK_SETTLED = 128, /* complete only when whoever opens the image anew reads it: its metadata are
                          with the layer below, though not flushed. Drivers without metadata of their
                          own do not know it */
    BLK_PREFETCH = 64, /* read: the caller does not want the bytes (NBD_CMD_CACHE); iov.len gives
                          the length, segments may be NULL */
};
#define BLK_MAX_PIECE   (256u << 10) /* no driver sees a longer read or write */
#define BLK_MAX_REQUEST (1ull << 62)

/* Called through the edge. They check range, read-only, alignment; split, bounce, serialise,
 * emulate FUA; dispatch (with head-room check); count. */
int co_blk_preadv(struct child *c, uint64_t off, struct iov v, unsigned flags);
int co_blk_pwritev(struct child *c, uint64_t off, struct iov v, unsigned flags);
int co_blk_pwrite_zeroes(struct child *c, uint64_t off, uint64_t len, unsigned flags);
int co_blk_pdiscard(struct child *c, uint64_t off, uint64_t len);
int co_blk_flush(struct child *c); /* skipped when nothing was written since the last */
/* Makes the node `size` bytes long; what is new reads as zeroes. A node of fixed size stays as it
 * is, and gives SR_ENOSPC when it would have to grow: afterwards node->size says what there is. The
 * caller sees to it that one at a time runs on a node, and nothing behind the smaller of the two
 * sizes; requests elsewhere go on. Where request_alignment is above 1, ask for a multiple of it. */
int co_blk_truncate(struct child *c, uint64_t size);

/* Flat helpers for metadata: one contiguous buffer. */
int co_blk_pread(struct child *c, uint64_t off, void *buf, size_t len);
int co_blk_pwrite(struct child *c, uint64_t off, const void *buf, size_t len, unsigned flags);

/* QEMU's BDRV_BLOCK_*. A driver that sets DATA or ZERO need not set ALLOCATED; one that sets none
 * of the three says "my backing decides" (zeroes when there is none). */
enum blk_status_flags {
    BLK_DATA = 1,         /* reading may give other than zeroes */
    BLK_ZERO = 2,         /* reads as zeroes */
    BLK_OFFSET_VALID = 4, /* map, map_child say where the bytes lie */
    BLK_RAW = 8,          /* ask map_child at map instead (pass-through) */
    BLK_ALLOCATED = 16,   /* this layer decides (not its backing) */
    BLK_EOF = 32,         /* the range ends at the end of the node */
    BLK_RECURSE = 64,     /* zero-ness may be known better below, at map of map_child */
};
struct blk_status {
    unsigned flags;
    uint64_t len; /* > 0, may exceed what was asked; the dispatch layer cuts it */
    uint64_t map;
    struct child *map_child;
};
/* This layer only (RAW resolved). */
int co_blk_status(struct child *c, uint64_t off, uint64_t len, struct blk_status *st);
/* Through the backing chain and, for zero-ness, through the files below: what a reader of the node
 * sees. flags: DATA, ZERO, ALLOCATED (in any layer). */
int co_blk_status_above(struct child *c, uint64_t off, uint64_t len, struct blk_status *st);

/* ---- Nodes and drivers ---- */

/* A driver's co_open may leave zeroes where 0 is explained, and in the first two for 1. */
struct blk_limits {
    uint32_t
        request_alignment; /* power of two, offsets and lengths of reads and writes; 1..64 KiB */
    uint32_t mem_align; /* of memory addresses, and of segment lengths but the last's; 1..4 KiB */
    uint32_t max_sg;    /* most segments of one request; 0: any */
    uint32_t max_transfer; /* bytes of one read or write; 0 and above: BLK_MAX_PIECE */
    uint32_t opt_transfer; /* preferred size; 0: none */
    uint32_t discard_alignment, write_zeroes_alignment; /* 0: request_alignment */
    uint64_t max_discard, max_write_zeroes;             /* 0: any */
};
/* Of one loop; the query sums. */
struct blk_stats {
    uint64_t rd_bytes, wr_bytes, rd_ops, wr_ops, flush_ops, unmap_ops, unmap_bytes, zero_ops,
        zero_bytes;
    uint64_t failed_rd, failed_wr, failed_flush, failed_unmap, invalid_rd, invalid_wr;
    uint64_t wr_highest;
    uint64_t write_gen; /* changes completed, well or not: what a flush has to cover */
};

#define NODE_NAME_MAX 31
struct node {
    /* What every request looks at. */
    const struct blk_driver *drv;
    void *state; /* drv->state_size bytes, zeroed, cache-line aligned, the driver's */
    uint64_t size;
    struct child *file, *backing; /* usual roles, kept by child_attach */
    struct blk_limits limits;     /* filled by the driver's co_open (defaults from the first child),
                                     fixed up by the core */
    /* What the driver does by itself. A driver that hands its requests on to a child may claim FUA,
     * MAY_UNMAP and NO_FALLBACK: the child's dispatch emulates what its driver lacks. */
    unsigned write_flags, zero_flags;
    unsigned tracking;  /* > 0: writes are tracked; counts reasons */
    unsigned home_loop; /* where its metadata is written */
    bool read_only;     /* a driver's co_open may set it: the medium is */
    bool auto_read_only, discard_unmap, force_share, cache_direct, cache_no_flush;
    enum { DETECT_ZEROES_OFF, DETECT_ZEROES_ON, DETECT_ZEROES_UNMAP } detect_zeroes;
    struct blk_stats *stats; /* [loop_count()] */

    /* Writes in flight (struct tracked), and the flush in flight: home loop only. */
    struct list writes;
    unsigned serialising; /* of them, how many are */
    bool flushing;
    struct co_queue flush_wait;
    uint64_t flushed_gen;
    struct reserve *reserve; /* a bounce buffer of its own; NULL: never bounces */

    /* The graph: loop 0 only. */
    struct list link;             /* all nodes */
    char name[NODE_NAME_MAX + 1]; /* "#block017" when the user gave none */
    struct list children;         /* struct child.sibling */
    struct list parents;          /* struct child.peer */
    unsigned refs;                /* parents + 1 while the user's name (blockdev-add) holds it */
    unsigned depth;               /* nodes on the longest way down, itself included */
    unsigned quiesced;            /* drains of this node, and quiesced nodes right below */
    struct node *todo;            /* of whoever walks the graph; walks do not yield */
    bool monitor_owned;
    bool opening;       /* its driver's co_open runs: nobody finds it by name */
    char filename[256]; /* for queries: what the driver says it is, else its file's */
};
static inline void *node_state(struct node *n)
{
    return n->state;
}

/* One edge. `parent` is a node, or NULL for the root edge of an origin. Permissions get their place
 * here (perm, shared) with live reconfiguration. */
struct child {
    struct node *node;
    struct node *parent;
    const char *role; /* "file", "backing", "data-file", "root" */
    struct list sibling, peer;
    bool writable;         /* the parent may write through this edge: never to a read-only node */
    unsigned write_flags;  /* added to every write: BLK_FUA of a writethrough export */
    struct origin *origin; /* of a root edge */
};

/* What a check of an image found, in the words of QEMU's ImageCheck. The first three count what is
 * wrong still when it has ended. `say` is the caller's: called for each thing that is wrong, once; NULL. */
struct blk_check {
    uint64_t corruptions, leaks, check_errors, corruptions_fixed, leaks_fixed;
    uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
    uint64_t image_end_offset;
    void (*say)(const char *line);
};
enum blk_fix { BLK_FIX_LEAKS = 1, BLK_FIX_ERRORS = 2 };

/* A driver: one const table. NULL: not supported, or the stated default. */
struct blk_driver {
    const char *name;           /* QEMU's name: "qcow2" */
    const struct type *options; /* STRUCT: its own options, without the common ones; NULL: none */
    size_t state_size;
    bool filter;   /* passes data of its file through unchanged */
    bool protocol; /* has no child below: a disk, a file */
    bool owner;    /* has metadata in its files: nobody else may write to them */
    /* opts: decoded `options`, valid until co_open returns. Attach children by co_child_open; set
     * size, limits, flags; on failure leave nothing behind but attached children (the core detaches
     * them). */
    int (*co_open)(struct node *n, const void *opts, struct error *err);
    void (*co_close)(struct node *n); /* flushed and drained before */
    int (*co_preadv)(struct node *n, uint64_t off, struct iov v, unsigned flags);
    /* flags: only those in n->write_flags. */
    int (*co_pwritev)(struct node *n, uint64_t off, struct iov v, unsigned flags);
    /* NULL or SR_ENOTSUP: buffers of zeroes. flags: only those in n->zero_flags. */
    int (*co_pwrite_zeroes)(struct node *n, uint64_t off, uint64_t len, unsigned flags);
    /* NULL or SR_ENOTSUP: nothing happens. */
    int (*co_pdiscard)(struct node *n, uint64_t off, uint64_t len);
    /* n->size is the core's to change, afterwards. NULL or SR_ENOTSUP: a filter hands on to its
     * file, others are of fixed size. */
    int (*co_truncate)(struct node *n, uint64_t size);
    /* Own metadata and then children; NULL: flush the children that may be written. Called only
     * when something was written (node_dirty) since the last one that succeeded. */
    int (*co_flush)(struct node *n);
    /* Sets st->len > 0; the rest is zeroed. NULL: a filter's file decides, else DATA. */
    int (*co_block_status)(struct node *n, uint64_t off, uint64_t len, struct blk_status *st);
    int (*co_prefetch)(struct node *n, uint64_t off, uint64_t len); /* NULL: nothing */
    void (*drain)(struct node *n, bool begin); /* filters: let go of what you hold back. NULL */
    /* Checks the image in `file`, over which no node of this driver is open; fix: enum blk_fix, of an
     * edge that may write. Negative, with err: it was not finished. NULL: no checks. */
    int (*co_check)(struct child *file, unsigned fix, struct blk_check *res, struct error *err);
    /* Makes an image of what `file` holds and loses by it. opts: decoded `create_options` (QEMU's
     * BlockdevCreateOptions<Driver>, without `driver` and `file`). Nothing is changed when they are
     * refused; after a later failure there is no image, or all of it. NULL: cannot be created. */
    const struct type *create_options;
    int (*co_create)(struct child *file, const void *opts, struct error *err);
    /* A child changed its size: the node's new size. NULL: a filter follows, others keep theirs. */
    uint64_t (*child_resized)(struct node *n, struct child *c);
    const struct type *info; /* driver-specific part of query results, or NULL */
    void (*get_info)(struct node *n, void *out, struct arena *a);
};
REGISTRY(blk_driver, const struct blk_driver);

extern const struct type type_blockdev_options; /* BlockdevOptions: flat union over `driver` */
extern const struct type type_blockdev_ref;     /* node name or inline definition */
extern const struct type type_blockdev_ref_or_null;

struct node *node_find(const char *name);
struct list *node_list(void);
/* Opens a definition (dictionary). text: leaves are command-line strings. named: as the user's own
 * (needs a node-name); the reference that the caller gets is the monitor's then. Control path. */
int co_node_open(const struct value *def, bool text, bool named, struct node **out,
                 struct error *err);
/* The last one flushes, closes, frees, and lets go of the children: parents first. */
void co_node_unref(struct node *n);
/* In a driver's co_open: open or find what `ref` says and attach it. writable: this parent may
 * write. SR_E* with err ("Block node is read-only"). */
int co_child_open(struct node *parent, const char *role, const struct schema_ref *ref,
                  bool writable, struct child **out, struct error *err);
/* The same for a name in an image header (below, volume_resolve): relative to the parent's file,
 * through driver `format` when not NULL. */
int co_child_open_volume(struct node *parent, const char *role, const char *name,
                         const char *format, bool writable, struct child **out, struct error *err);
/* Attach a node that is open already; takes its own reference. Only while the parent is opened, so
 * that no cycle can be made: nobody can name the parent yet. */
int child_attach(struct node *parent, const char *role, struct node *n, bool writable,
                 struct child **out, struct error *err);
/* The parent is going to write through this edge, which is not known when it is made. SR_EPERM: another
 * parent does not share the node. */
int child_allow_writes(struct child *c, struct error *err);
void co_child_detach(struct child *c);
/* The driver says that its size changed (live resize); parents that pass size through follow,
 * exports are told. Loop 0; does not yield, so also in the midst of requests. */
void node_resized(struct node *n, uint64_t size);
/* The driver changed something without being asked to write: the next flush is not skipped. */
void node_dirty(struct node *n);
/* Writes of nodes with a request_alignment above 1 are tracked always; others while somebody sends
 * BLK_SERIALISING requests to them. Control path. */
void co_node_track(struct node *n, bool on);
/* Deepest permitted chain of children. */
#define BLK_MAX_DEPTH 512

/* ---- Origins and gates ---- */

/* One per loop, in its own cache line; touched by that loop only. An origin in memory that is not
 * static comes from blk_calloc. */
struct gate {
    unsigned inflight;
    bool closed;
    struct co_queue waiting; /* requests that came while it was closed */
    struct origin *origin;
    struct loop_job close, open; /* from loop 0; close comes back when nothing is in flight */
} __attribute__((aligned(CACHE_LINE)));
struct origin {
    struct list link; /* all origins */
    struct child *root;
    struct gate gate[MAX_LOOPS];
    unsigned close_depth;              /* drains that hold it closed */
    unsigned busy;                     /* loops whose gate was told to close and is not idle yet */
    void (*resized)(struct origin *o); /* root's size changed; NULL */
    bool exported; /* before it is opened: for strangers, so nobody else may own the node */
};
/* Attach to a node as the start of requests. */
int origin_open(struct origin *o, struct node *n, bool writable, struct error *err);
void co_origin_close(struct origin *o); /* drains, detaches */
static inline bool origin_try_enter(struct origin *o)
{
    struct gate *g = &o->gate[loop_id()];
    if (unlikely(g->closed))
        return false;
    g->inflight++;
    return true;
}
void co_origin_enter(struct origin *o); /* waits while the gate is closed */
void origin_gate_idle(struct gate *g);
static inline void origin_leave(struct origin *o)
{
    struct gate *g = &o->gate[loop_id()];
    if (unlikely(!--g->inflight && g->closed))
        origin_gate_idle(g);
}
/* Close the gates of all origins above n and wait until nothing is in flight. Nests. Loop 0. */
void co_drain_begin(struct node *n);
void drain_end(struct node *n);

/* ---- Exports ---- */

struct export;
struct export_type {
    const char *name;           /* "nbd" */
    const struct type *options; /* STRUCT: its own options */
    size_t state_size;
    bool restart_safe; /* on unless said otherwise: its clients outlive this process */
    int (*co_open)(struct export *e, const void *opts, struct error *err);
    /* Stop taking requests; wait for those in flight until the deadline, then cut connections. */
    void (*co_close)(struct export *e, uint64_t deadline_ns);
};
REGISTRY(export_type, const struct export_type);
struct export
{
    struct list link;
    char id[64];
    const struct export_type *type;
    void *state;
    struct origin origin; /* origin.root->node is the volume */
    bool writable, writethrough, shutting_down;
};
extern const struct type type_export_options; /* BlockExportOptions: flat union over `type` */
struct list *export_list(void);
struct export *export_find(const char *id);
int co_export_add(const struct value *def, bool text, struct error *err);
void co_export_del(struct export *e, uint64_t deadline_ns);

/* ---- Volume names and disks ---- */

/* A name in an image header or `filename=`: "scheme:rest", or a plain path on the host. Providers
 * turn it into a BlockdevRef: a definition (dictionary, leaves of JSON's types), or a string that
 * names a node. */
struct volume_provider {
    const char *scheme; /* "serial"; "" is the plain name (host only) */
    /* `relative_to`: the file name of the image that holds the name, or "" */
    struct value *(*resolve)(const char *rest, const char *relative_to, struct error *err);
};
REGISTRY(volume_provider, const struct volume_provider);
struct value *volume_resolve(const char *name, const char *relative_to, struct error *err);

/* A disk that a controller driver found. The driver announces it at probe time; nodes claim it. */
struct disk {
    struct list link;
    unsigned index;     /* discovery order, by disk_announce */
    const char *driver; /* "virtio-blk": also the node driver's name */
    char address[24];   /* "pci 00:02.0", "mmio feb00e00" */
    char serial[41];
    uint64_t size;       /* bytes */
    uint32_t block_size; /* logical */
    bool read_only;
    bool has_port; /* one of several on its controller: at this port */
    unsigned port;
    struct node *user; /* the node that claimed it */
    void *priv;        /* the controller driver's */
};
void disk_announce(struct disk *d); /* prints "disk N: ..." */
struct list *disk_list(void);
/* Options of every disk node; exactly one of serial, pci, index. Where disks have ports, port alone
 * will do, too, or beside pci. */
struct disk_options {
    const char *serial, *pci;
    bool has_index, has_port;
    int64_t index, port;
};
/* The table of struct disk_options, for a driver that adds none of its own. */
extern const struct field disk_fields[];
/* Finds and claims. SR_ENODEV / SR_EBUSY with err naming the option at fault. */
int disk_claim(const char *driver, const struct disk_options *o, struct node *n, struct disk **out,
               struct error *err);
void disk_release(struct disk *d);

/* Zeroed, cache-line aligned memory (state with gates or padding in it); NULL: none left. */
void *blk_calloc(size_t n);
void blk_free(void *p);
#endif
