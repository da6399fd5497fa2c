/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_UNIT_SUPPORT_QWRITE_H
#define TESTS_UNIT_SUPPORT_QWRITE_H
/*
 * A qcow2 image that is written, and a model of what is in it.
 *
 *     struct qcase c = {.create = "cluster-size=4096", .size = 1 << 20, .disk = "size=4M"};
 *     struct qimage w;
 *     co_qimage_make(&w, &c);         memory disk "m" (data file "d", backing "b")
 *     co_qimage_open(&w);             node "q"
 *     co_qworkers(&w, 5, 100);        random requests from several coroutines
 *     co_qimage_close(&w);            the node only
 *     co_qimage_verify(&w);           no leak, no error, and the content of the model
 *     co_qimage_free(&w);
 *
 * Requests that are under way at once have no byte in common (unless both read), but share sectors,
 * subclusters, clusters and tables. A request that fails leaves each of its bytes old or new: it is
 * read back at once, and the model is what it said.
 */
#include "tests/unit/memdisk.h"
#include "tests/unit/support_qcheck.h"

struct qcase {
    const char *create; /* options of the creation; size and data-file come with the rest */
    uint64_t size;
    const char *disk;  /* of "m" and "d", from size= on */
    const char *open;  /* more of the qcow2 node */
    uint64_t backing;  /* bytes of a backing disk; 0: none */
    bool data_file;    /* external */
    bool small;        /* SR_ENOSPC is expected now and then */
    unsigned requests; /* of each worker, for tables of cases */
};

struct qimage {
    const struct qcase *c;
    struct node *m, *d, *b;
    struct test_root t;
    struct image_header h;
    uint64_t size, cluster;
    uint8_t *model;
    struct list busy;
    bool failures;      /* requests may fail with whatever they like */
    unsigned full, bad; /* requests that failed: SR_ENOSPC; all others */
    unsigned done[8];   /* enum qkind */
};

enum qkind { Q_READ, Q_WRITE, Q_ZERO, Q_DISCARD, Q_FLUSH };
struct qop {
    enum qkind kind;
    uint64_t off, len;
    unsigned flags;
};

void co_qimage_make(struct qimage *w, const struct qcase *c);
void co_qimage_open(struct qimage *w);
/* The node alone; NULL: it does not open. */
struct node *co_qimage_node(const struct qimage *w, struct error *err);
void co_qimage_close(struct qimage *w);
/* Closed: what it holds becomes a snapshot. */
void co_qimage_snapshot(struct qimage *w);
/* Closed: the tables are right, and a reader sees the model. */
void co_qimage_verify(struct qimage *w);
void co_qimage_compare(struct qimage *w); /* the second half alone */
void co_qimage_free(struct qimage *w);
/* A request against the model; what the driver said. */
int co_qop(struct qimage *w, struct qop op);
struct qop qop_random(const struct qimage *w);
void co_qworkers(struct qimage *w, unsigned workers, unsigned each);
/* As co_create of the driver, options by QMP's names. */
int co_image_create(struct child *file, const char *options, struct error *err);
/* Closes the origin; the user's name stays. */
void test_root_done(struct test_root *t);
void co_disk_resize(struct node *n, uint64_t size);
/* Lets go of the user's name. */
void co_node_drop(struct node *n);
/* Not found: NULL, and err says why. */
struct node *co_node_try(const char *text, struct error *err);
#endif
