/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef FORMATS_QCOW2_CHECK_H
#define FORMATS_QCOW2_CHECK_H
/*
 * What the files of the check share: check.c (the order of things, comparison, COPIED flags),
 * check_walk.c (who refers to which cluster), repair.c (new refcounts, bits in the header).
 *
 * Units: a `cluster` is a number (host offset >> cluster_bits), everything else bytes. Control path.
 * Functions that return int: 0, or SR_E* with c->err set, after which nothing may be repaired.
 */
#include "formats/qcow2/qcow2.h"

/* Refcounts of consecutive clusters, as in a refcount block. order: log2 of the bits of one. */
static inline uint64_t refs_get(const uint8_t *a, unsigned order, uint64_t i)
{
    switch (order) {
    case 3:
        return a[i];
    case 4:
        return be16_get(((const be16 *)a)[i]);
    case 5:
        return be32_get(((const be32 *)a)[i]);
    case 6:
        return be64_get(((const be64 *)a)[i]);
    default:
        return a[i >> (3 - order)] >> ((i << order) & 7) & ((1u << (1u << order)) - 1);
    }
}
static inline void refs_set(uint8_t *a, unsigned order, uint64_t i, uint64_t v)
{
    uint8_t *byte = a + (i >> (order < 3 ? 3 - order : 0));
    unsigned mask = (1u << (1u << (order & 3))) - 1, shift = (i << order) & 7;
    switch (order) {
    case 3:
        *byte = (uint8_t)v;
        break;
    case 4:
        be16_set((be16 *)a + i, (uint16_t)v);
        break;
    case 5:
        be32_set((be32 *)a + i, (uint32_t)v);
        break;
    case 6:
        be64_set((be64 *)a + i, v);
        break;
    default:
        *byte = (uint8_t)((*byte & ~(mask << shift)) | (unsigned)v << shift);
    }
}

#define CHECK_CHUNK 65536u /* bytes of a table looked at in one go */

/* Tables are changed in place; in a cluster that is something else, too, they are not. */
enum check_kind { CHECK_L2 = 1, CHECK_OTHER = 2 };
#define CHECK_MIXED 64u /* clusters known to be both; more: every table may be */

/* New metadata, one behind the other: first cluster, and how many. */
struct layout {
    uint64_t at, table, blocks, snapshots;
};
/* Windows in which a table refers to something: no other need look at it. */
struct check_reach {
    uint16_t from, to;
};

struct check {
    struct child *file;
    struct error *err;
    void (*say)(const char *line); /* NULL: nobody listens */
    struct qcow2_image *img;
    unsigned bits, order; /* log2: of the cluster size; of the bits of a refcount */
    uint64_t cluster;     /* size of one */
    bool extended, external;
    uint64_t size, clusters; /* of the file; the last one may be there in part */

    /* Refcounts of clusters [lo, hi): first what was counted, after the comparison what is in the file.
     * kinds: two bits for each, enum check_kind, of who was counted. */
    uint8_t *window, *kinds;
    size_t window_size, kinds_size;
    uint64_t lo, hi, step;
    bool first, last;         /* of the windows of a pass */
    uint8_t *l1, *l2, *block; /* CHECK_CHUNK each: of an L1 table, an L2 table, anything else */
    struct {
        uint64_t at;
        bool valid;
        be64 entry[512];
    } table; /* a part of the refcount table */

    /* The pass. */
    unsigned fix;
    bool fix_entries, flags;
    bool renew;         /* what is replaced does not count, but: */
    struct layout area; /* this does */
    struct hole {
        uint64_t want, n, at;
    } hole;
    uint64_t table_clusters;    /* of L1 and bitmap tables so far */
    struct check_reach *reach;  /* of each L2 table; NULL: there is one window only */
    uint64_t nreach, nth_table; /* in the order of the walk */
    uint64_t low, high;         /* clusters referred to since somebody set them */

    /* What was found. */
    struct blk_check res;
    uint64_t flags_wrong, flags_fixed;
    uint64_t short_snapshots; /* entries that lack what version 3 requires */
    uint64_t mixed[CHECK_MIXED];
    unsigned nmixed;
    bool mixed_l1;     /* the active L1 table is something else, too */
    uint64_t outside;  /* the first cluster behind the file that something refers to */
    uint64_t highest;  /* cluster with a refcount or a reference; + 1, 0: none */
    bool bad_reftable; /* the header's is none */
    bool strange_l1;   /* the active L1 table is not as large: its flags say nothing */
    bool lost;         /* references that could not be followed: what looks leaked may not be */
    bool overflow;     /* more references than a refcount can say: who knows what flags should */
    bool rebuild;      /* the refcount structure cannot be repaired in place */
    bool changed;      /* the header was prepared for changes */
};

/* Something is wrong. */
void check_say(struct check *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* A corruption that has nothing to do with the window: counted and told in the first. */
#define check_wrong(c, ...)              \
    do {                                 \
        if ((c)->first) {                \
            (c)->res.corruptions++;      \
            check_say((c), __VA_ARGS__); \
        }                                \
    } while (0)
static inline uint64_t ref_max(const struct check *c)
{
    return c->order == 6 ? UINT64_MAX : (1ull << (1u << c->order)) - 1;
}

/* What lies behind the end of the file reads as zeroes and is not written. */
int co_check_read(struct check *c, uint64_t off, void *buf, size_t len);
int co_check_write(struct check *c, uint64_t off, const void *buf, size_t len);
int co_check_flush(struct check *c);
/* May the L2 table there be changed? Where it lies upon something else, not. */
bool check_may_write(const struct check *c, uint64_t table);
/* Clusters of the window that were not counted get the refcounts that they have in the file. */
int co_check_add_stored(struct check *c);

/* ---- check.c ---- */

/* For each window below `clusters`, in order: counts, then calls `co_then`. */
int co_each_window(struct check *c, uint64_t clusters, int (*co_then)(struct check *c));

/* ---- check_walk.c ---- */

/* A walk over one L1 table. Visitors set `changed` when they have changed what they were shown. */
struct walk {
    struct check *c;
    uint64_t l1;
    uint32_t entries;
    bool active;
    bool note_reach;
    bool changed;
    uint64_t tables; /* L2 tables so far */
    uint64_t table;  /* the one at hand */
    uint64_t next;   /* where the data would go on without a gap; 0: none before */
    int (*co_see_l1)(struct walk *w, be64 *entry);
    int (*co_see_l2)(struct walk *w, be64 *entry); /* its bitmap behind it */
};
int co_walk(struct walk *w);
/* An entry that has, or had, a cluster of its own. */
bool check_has_cluster(const struct check *c, uint64_t entry);
/* *off: where the table goes on. */
int co_next_snapshot(struct check *c, uint32_t i, uint64_t *off, struct qcow2_snapshot *h);
/* The snapshot table can be read, and img->snapshots_bytes is set. */
int co_measure_snapshots(struct check *c);
/* Everything that refers to a cluster of the window is counted in it. */
int co_count_all(struct check *c);

/* ---- repair.c ---- */

int co_rebuild(struct check *c);
int co_prepare_header(struct check *c);
int co_clear_bits(struct check *c);

/* Most bytes for the window, and for `reach`. Tests make them small. */
extern size_t check_window_most, check_reach_most;
#endif
