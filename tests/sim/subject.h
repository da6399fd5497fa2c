/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_SIM_SUBJECT_H
#define TESTS_SIM_SUBJECT_H
/*
 * What is put to the test: a format with its options over disks of a kind, and the image that each
 * run begins with.
 */
#include "tests/sim/crash.h"
#include "tests/sim/volume.h"

/* What an independent reader of the image finds. */
struct findings {
    uint64_t corruptions, leaks;
    bool dirty;     /* the image says itself that its refcounts may be wrong */
    char text[400]; /* the first corruption */
};

struct subject {
    const char *name;
    const char *driver;
    const char *open;     /* the volume, key=value, without the driver's name */
    const char *create;   /* options of the driver's co_create; NULL: `make` */
    uint64_t size;        /* of the volume */
    unsigned cluster;     /* what operations are aligned to when they are */
    struct traits traits; /* of all media; latency is the run's business */
    uint64_t file_size;   /* of a file of fixed size; 0: enough for everything */
    bool fresh;           /* nothing is written to it before the runs */
    bool data_file, backing;
    uint64_t backing_size; /* 0: three quarters of the volume */
    bool restart_safe;
    bool roomy;    /* its processes have pools that are not at their minimum */
    bool snapshot; /* an internal snapshot is taken before the runs, by qemu-img */
    uint64_t full; /* the file's clusters up to there are taken, and leaked, before the runs */
    void (*make)(const struct subject *s); /* puts an image on the media */
    /* Looks at the image on the media. NULL: nothing can be wrong with it. */
    void (*check)(struct findings *f);
};

/* qcow2_check.c: from the specification. */
void qcow2_check(struct findings *f);

/* A subject with its image: made once, used for many runs. */
struct bench {
    const struct subject *s;
    struct snapshot before;
    const char *open;       /* the volume, as for co_volume_open */
    const uint8_t *content; /* of the volume, whole sectors */
    uint64_t leaks;         /* of the image: those of `full` */
    struct heap heap;
};
/* Makes the image, writes to its first half what operations may meet there, and closes it. NULL, or
 * what went wrong. */
const char *co_bench_make(struct bench *b, const struct subject *s);
void bench_free(struct bench *b);
/* Makes the image over whatever is on the media. */
int co_subject_create(const struct subject *s, struct error *err);
/* The file's medium alone, as co_check and co_create want it. */
int co_file_open(struct volume *v, struct error *err);
const struct blk_driver *subject_driver(const struct subject *s);
/* Media with that image, no record, no latency, no faults. */
void bench_put(const struct bench *b);
extern const struct subject subjects[];
extern const unsigned nsubjects;
const struct subject *subject_find(const char *name, size_t len);
#endif
