/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Any bytes as a qcow2 image: opened, its block status walked, read here and there. The file is a
 * node over a copy of exactly the input, so that ASan sees a read outside of it; a read that is
 * refused is fine, one that changes memory around its buffer is not. The data file, where the image
 * wants one, is the same bytes; the backing, for every other input, a disk of 'b's, so names in the
 * image lead nowhere. The mutator puts right what most inputs would fail at: magic, version, cluster
 * size, and small counts.
 */
#include "blk/blk.h"
#include "kernel/kernel.h"
#include "tests/fuzz/support_boot.h"

#include <stdlib.h>
#include <string.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

static struct {
    const uint8_t *p;
    size_t n;
    bool done;
} in;

/* ---- the file ---- */

static int co_input_open(struct node *n, const void *opts, struct error *err)
{
    (void)opts, (void)err;
    n->size = in.n;
    n->read_only = true;
    return 0;
}

static int co_input_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    (void)n, (void)flags;
    if (!range_ok(off, v.len, in.n))
        panic("a read outside of the file");
    iov_copy_in(v, 0, in.p + off, v.len);
    if ((off & 1023) < 512)
        co_reschedule();
    return 0;
}

static int co_backing_open(struct node *n, const void *opts, struct error *err)
{
    (void)opts, (void)err;
    n->size = 100000;
    return 0;
}

static int co_backing_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    (void)n, (void)off, (void)flags;
    iov_fill(v, 0, 'b', v.len);
    return 0;
}

static const struct blk_driver fuzz_input = {
    .name = "input", .protocol = true, .co_open = co_input_open, .co_preadv = co_input_preadv};
static const struct blk_driver fuzz_backing = {
    .name = "bees", .protocol = true, .co_open = co_backing_open, .co_preadv = co_backing_preadv};
REGISTER(blk_driver, fuzz_input);
REGISTER(blk_driver, fuzz_backing);

/* ---- one input ---- */

static struct node *co_open_text(const char *text)
{
    struct error err = {0};
    struct node *n = NULL;
    struct value *def = schema_parse_keyval(text, "driver", &err);
    int r = co_node_open(def, true, true, &n, &err);
    if (r && !err.set)
        panic("refused without a sentence");
    value_free(def);
    return n;
}

static void co_read(struct child *c, uint64_t off, size_t len)
{
    uint64_t size = c->node->size;
    if (off >= size)
        return;
    len = (size_t)MIN(len, size - off);
    uint8_t *buf = malloc(len);
    (void)co_blk_pread(c, off, buf, len);
    free(buf);
}

static void co_walk(struct child *c)
{
    struct blk_status st;
    uint64_t off = 0, size = c->node->size;
    for (unsigned i = 0; i < 40 && off < size; i++) {
        bool above = i & 1;
        int r = above ? co_blk_status_above(c, off, size - off, &st)
                      : co_blk_status(c, off, size - off, &st);
        if (!r && (!st.len || st.len > size - off))
            panic("a status of %llu bytes", (unsigned long long)st.len);
        co_read(c, off, i % 3 ? 700 : 9000);
        off += r ? 512 : st.len;
    }
}

static void co_use(struct node *n)
{
    struct origin *o = blk_calloc(sizeof(*o));
    if (origin_open(o, n, false, NULL) || !origin_try_enter(o))
        panic("no origin");
    co_walk(o->root);
    co_read(o->root, 0, 256u << 10);
    co_read(o->root, 100, 70000);
    co_read(o->root, n->size / 2, 40000);
    co_read(o->root, n->size - MIN(n->size, 3000u), 3000);
    origin_leave(o);
    co_origin_close(o);
    blk_free(o);
}

static bool external(void)
{
    return in.n >= 80 && in.p[7] == 3 && (in.p[79] & 4);
}

static void co_one(void *arg)
{
    (void)arg;
    struct node *n = NULL;
    bool backing = in.n & 1;
    if (external())
        n = co_open_text(backing
                             ? "driver=qcow2,node-name=q,file.driver=input,data-file.driver=input,"
                               "backing.driver=bees"
                             : "driver=qcow2,node-name=q,file.driver=input,data-file.driver=input,"
                               "backing=");
    else
        n = co_open_text(backing ? "driver=qcow2,node-name=q,file.driver=input,backing.driver=bees"
                                 : "driver=qcow2,node-name=q,file.driver=input,backing=");
    if (n) {
        co_use(n);
        n->monitor_owned = false;
        co_node_unref(n);
    }
    if (!list_empty(node_list()))
        panic("nodes are left");
    in.done = true;
}

static void run(const uint8_t *p, size_t n)
{
    in.p = p;
    in.n = n;
    fuzz_run(co_one, NULL, &in.done);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fuzz_boot(64);
    run((const uint8_t *)"", 0); /* what the first node takes for ever */
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    size_t pages = page_free_bytes();
    uint8_t *copy = malloc(n ? n : 1);
    memcpy(copy, p, n);
    run(copy, n);
    if (page_free_bytes() != pages)
        panic("pages are left");
    free(copy);
    return 0;
}

/* ---- mutator ---- */

static void set32(uint8_t *at, uint32_t v)
{
    be32_set((be32 *)(void *)at, v);
}

static uint32_t get32(const uint8_t *at)
{
    be32 v;
    memcpy(&v, at, 4);
    return be32_get(v);
}

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    n = LLVMFuzzerMutate(p, n, max);
    if (n < 112 || seed % 8 == 0)
        return n;
    memcpy(p, "QFI\xfb", 4);
    set32(p + 4, 2 + (p[7] & 1));
    if (get32(p + 20) < 9 || get32(p + 20) > 21)
        set32(p + 20, 9 + seed / 8 % 8);
    memset(p + 32, 0, 4);             /* no encryption */
    memset(p + 48, 0, 6);             /* refcount table in the file */
    set32(p + 56, 1);                 /* of one cluster */
    set32(p + 60, get32(p + 60) & 3); /* few snapshots */
    if (p[7] == 3 && seed % 3) {
        memset(p + 72, 0, 7); /* known features */
        p[79] &= 31;
        p[104] = p[79] >> 3 & 1;
        set32(p + 100, 112);
    }
    return n;
}
