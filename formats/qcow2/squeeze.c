/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Clusters compressed for writing.
 *
 *     iov -> | cluster, zeroes behind the end of the disk | compressor's state |   s->squeeze
 *                          |
 *                          `-> workspace of cluster.c, held until the writer has written it
 *
 * The first half is of the image's own, taken at its first compressed write: most images see none.
 * It needs no lock, because it is used from the copy to the last compressed byte without a wait. The
 * copy protects the libraries from memory that changes under them (a guest's), and saves them from
 * pieces. Compressed bytes are fewer than a cluster's, or are not taken.
 *
 * Missing on purpose: the loop stands still while a cluster is compressed (64 KiB: about 2 ms).
 */
#include "formats/qcow2/qcow2.h"

struct job {
    struct qcow2 *s;
    struct iov v;
    void *out;
    int result;
};

static size_t cluster_size(const struct qcow2 *s)
{
    return (size_t)s->cluster_mask + 1;
}

static size_t own_size(const struct qcow2 *s)
{
    return cluster_size(s) + compressor_size(s->compression, cluster_size(s));
}

static void run(void *arg)
{
    struct job *j = arg;
    size_t size = cluster_size(j->s);
    char *in = j->s->squeeze;
    iov_copy_out(in, j->v, 0, j->v.len);
    memset(in + j->v.len, 0, size - j->v.len);
    j->result = compress_all((struct compressor *)(void *)(in + size), j->s->compression, in, size,
                             j->out, size - 1);
}

int co_squeeze(struct qcow2 *s, struct iov v, struct squeezed *z)
{
    struct job j = {.s = s, .v = v};
    if (!s->squeeze && !fault(FAULT_ALLOC))
        s->squeeze = page_alloc(own_size(s));
    if (!s->squeeze)
        return SR_ENOMEM;
    struct workspace *w = co_workspace_borrow(s, &j.out);
    co_on_big_stack(run, &j);
    if (j.result < 0) {
        workspace_return(s, w);
        return j.result;
    }
    *z = (struct squeezed){.w = w, .data = j.out, .len = (size_t)j.result};
    return 0;
}

void squeeze_done(struct qcow2 *s, struct squeezed *z)
{
    workspace_return(s, z->w);
}

void squeeze_close(struct qcow2 *s)
{
    if (s->squeeze)
        page_free(s->squeeze, own_size(s));
}
