/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2 images that lie, opened read-write and written to.
 *
 *     input   recipe | record | record | ...        record: below 128 damage, else a request
 *
 * The recipe becomes an image, the damage is done to it, then the requests run, some of them at the
 * same time; the image is closed, opened again and read. Whatever the damage, nothing may crash, hang
 * or leave memory behind, and the image is not made worse:
 *   - guest clusters that the audit trusts read as before where nothing was written;
 *   - clusters that it trusts and that belong to a snapshot have not changed;
 *   - once the corrupt bit is set nothing more is written;
 *   - an image that is refused has not changed (a dirty one may have been repaired half way).
 * What was written reads back where nothing in the image pointed at free clusters. An image that was
 * not damaged opens, does all that it is asked for, and is without error and leak when it is closed.
 */
#include "tests/fuzz/support_audit.h"
#include "tests/fuzz/support_image.h"
#include "blk/blk.h"
#include "kernel/kernel.h"
#include "tests/fuzz/support_boot.h"

#include <stdlib.h>
#include <string.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

#define RUNNING_MAX 8u
#define RECORDS_MAX 24u

/* Not this: what the fuzzer is to look at is the driver. */
#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), apply_to = function)

/* What is known about a byte of the disk. */
enum known { ORIGINAL, WRITTEN, UNKNOWN };

struct request {
    struct co_start start;
    const uint8_t *r;
    uint64_t off;
    size_t len;
    uint8_t *buf;
    bool busy, was_corrupt;
};

static struct {
    const uint8_t *records;
    size_t nrecords;
    struct image image;
    uint8_t *pristine;
    /* The file below. */
    uint64_t size, most, longest;
    bool native_zeroes, native_discard, slow;
    uint32_t align;
    /* The disk. */
    uint8_t *now, known[DISK_MAX];
    uint64_t disk;
    bool trusted[DISK_MAX / 512 + 1], full, failed;
    struct origin *origin;
    struct request request[RUNNING_MAX];
    struct co_join join;
    struct audit before, after;
    bool done;
} in;

/* ---- the file ---- */

static int co_input_open(struct node *n, const void *opts, struct error *err)
{
    (void)opts, (void)err;
    n->size = in.size;
    n->limits.request_alignment = in.align;
    n->zero_flags = in.native_zeroes ? BLK_MAY_UNMAP | BLK_NO_FALLBACK : 0;
    return 0;
}

static void co_input_begin(const struct node *n, uint64_t off, uint64_t len)
{
    if (!range_ok(off, len, align_up(n->size, in.align)))
        panic("a request outside of the file");
    if (in.slow)
        co_reschedule();
}

static int co_input_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    (void)flags;
    co_input_begin(n, off, v.len);
    iov_copy_in(v, 0, in.image.file + off, v.len);
    if (in.slow)
        co_reschedule();
    return 0;
}

static int co_input_pwritev(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    (void)flags;
    co_input_begin(n, off, v.len);
    iov_copy_out(in.image.file + off, v, 0, v.len);
    if (in.slow)
        co_reschedule();
    return 0;
}

static int co_input_pwrite_zeroes(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    (void)flags;
    if (!in.native_zeroes)
        return SR_ENOTSUP;
    co_input_begin(n, off, len);
    memset(in.image.file + off, 0, len);
    return 0;
}

/* Nobody knows what is there afterwards. */
static int co_input_pdiscard(struct node *n, uint64_t off, uint64_t len)
{
    if (!in.native_discard)
        return SR_ENOTSUP;
    co_input_begin(n, off, len);
    memset(in.image.file + off, 0xdb, len);
    return 0;
}

static int co_input_truncate(struct node *n, uint64_t size)
{
    if (!in.most)
        return SR_ENOTSUP;
    if (size > in.most)
        return SR_ENOSPC;
    if (size > n->size)
        memset(in.image.file + n->size, 0, size - n->size);
    in.size = size;
    in.longest = MAX(in.longest, size);
    return 0;
}

static int co_backing_open(struct node *n, const void *opts, struct error *err)
{
    (void)opts, (void)err;
    n->size = DISK_MAX;
    return 0;
}

static int co_backing_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    (void)n, (void)off, (void)flags;
    iov_fill(v, 0, 'b', v.len);
    return 0;
}

static int co_data_open(struct node *n, const void *opts, struct error *err)
{
    (void)opts, (void)err;
    n->size = in.image.disk;
    return 0;
}

static int co_data_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    (void)n, (void)flags;
    iov_copy_in(v, 0, in.image.data + off, v.len);
    return 0;
}

static int co_data_pwritev(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    (void)n, (void)flags;
    iov_copy_out(in.image.data + off, v, 0, v.len);
    return 0;
}

static const struct blk_driver fuzz_input = {.name = "input",
                                             .protocol = true,
                                             .co_open = co_input_open,
                                             .co_preadv = co_input_preadv,
                                             .co_pwritev = co_input_pwritev,
                                             .co_pwrite_zeroes = co_input_pwrite_zeroes,
                                             .co_pdiscard = co_input_pdiscard,
                                             .co_truncate = co_input_truncate};
static const struct blk_driver fuzz_backing = {
    .name = "bees", .protocol = true, .co_open = co_backing_open, .co_preadv = co_backing_preadv};
static const struct blk_driver fuzz_data = {.name = "data",
                                            .protocol = true,
                                            .co_open = co_data_open,
                                            .co_preadv = co_data_preadv,
                                            .co_pwritev = co_data_pwritev};
REGISTER(blk_driver, fuzz_input);
REGISTER(blk_driver, fuzz_backing);
REGISTER(blk_driver, fuzz_data);

/* ---- opening and closing ---- */

static bool corrupt(void)
{
    return in.image.file[7] == 3 && (in.image.file[79] & 2);
}

static bool was_dirty(void)
{
    return in.pristine[7] == 3 && (in.pristine[79] & 1);
}

static bool external(void)
{
    return in.image.file[7] == 3 && (in.image.file[79] & 4);
}

static bool co_open(bool read_only)
{
    char text[200];
    struct error err = {0};
    struct node *n = NULL;
    snprintf(text, sizeof(text), "driver=qcow2,node-name=q,read-only=%s,file.driver=input%s,%s",
             read_only ? "on" : "off", external() ? ",data-file.driver=data" : "",
             in.image.backing ? "backing.driver=bees" : "backing=");
    struct value *def = schema_parse_keyval(text, "driver", &err);
    int r = co_node_open(def, true, true, &n, &err);
    value_free(def);
    if (r && !err.set)
        panic("refused without a sentence");
    if (r && !in.image.damaged)
        panic("refused: %s", err.msg);
    if (r)
        return false;
    in.origin = blk_calloc(sizeof(*in.origin));
    if (!in.origin || origin_open(in.origin, n, !n->read_only, NULL) ||
        !origin_try_enter(in.origin))
        panic("no origin");
    in.disk = MIN(n->size, DISK_MAX);
    return true;
}

static void co_close(void)
{
    struct node *n = in.origin->root->node;
    origin_leave(in.origin);
    co_origin_close(in.origin);
    blk_free(in.origin);
    n->monitor_owned = false;
    co_node_unref(n);
    if (!list_empty(node_list()))
        panic("nodes are left");
}

static void co_open_again(bool read_only)
{
    if (!co_open(read_only))
        panic("it was open before");
}

/* ---- what is known ---- */

static uint64_t unit(void)
{
    return 1ull << in.before.bits;
}

/* The first look: what the audit does not vouch for may read as anything, now and later. */
static void co_learn(void)
{
    memset(in.known, UNKNOWN, in.disk);
    for (uint64_t n = 0, off; (off = n * unit()) < in.disk; n++) {
        size_t len = (size_t)MIN(unit(), in.disk - off);
        bool good = !co_blk_pread(in.origin->root, off, in.now + off, len);
        in.trusted[n] = good && audit_trusts(&in.before, n);
        if (in.trusted[n])
            memset(in.known + off, ORIGINAL, len);
        if (!in.image.damaged && (!good || memcmp(in.now + off, in.image.model + off, len)))
            panic("an image without damage reads wrong at %llu", (unsigned long long)off);
    }
}

static void set_known(const struct request *q, enum known k)
{
    memset(in.known + q->off, k, q->len);
    if (k == WRITTEN)
        memcpy(in.now + q->off, q->buf, q->len);
}

static void compare(uint64_t off, size_t len, const uint8_t *got, int r, const uint8_t *known,
                    bool written_too)
{
    if (!r && !memcmp(got, in.now + off, len))
        return;
    for (size_t k = 0; k < len; k++) {
        if (known[k] == UNKNOWN || (known[k] == WRITTEN && !written_too))
            continue;
        if (r)
            panic("byte %llu was readable: %s", (unsigned long long)off + k, sr_strerror(r));
        if (got[k] != in.now[off + k])
            panic("byte %llu has changed", (unsigned long long)off + k);
    }
}

/* What is new goes to clusters that nothing points at. */
static bool sane(void)
{
    return !in.before.dangling && !in.before.bad && !in.failed;
}

/* At the end, of an instance that has not seen the requests. */
static void co_verify(void)
{
    co_open_again(true);
    uint8_t *buf = malloc(unit());
    for (uint64_t n = 0, off; (off = n * unit()) < in.disk; n++) {
        size_t len = (size_t)MIN(unit(), in.disk - off);
        int r = co_blk_pread(in.origin->root, off, buf, len);
        bool sure = !in.image.damaged || (sane() && audit_trusts(&in.after, n));
        compare(off, len, buf, r, in.known + off, sure);
    }
    free(buf);
    co_close();
}

/* A repair puts entries right that made no sense, and the snapshot table elsewhere. */
static void check_snapshots(void)
{
    unsigned repaired = was_dirty() ? ROLE_L1 | ROLE_L2 | ROLE_SNAPSHOTS : 0;
    for (uint64_t c = 0; in.before.usable && c < in.before.clusters; c++) {
        const struct spot *s = &in.before.spot[c];
        uint64_t at = c * unit(), len = MIN(unit(), in.before.len - at);
        if (s->trusted && s->snapshot && !(s->roles & repaired) &&
            memcmp(in.pristine + at, in.image.file + at, len))
            panic("cluster %llu of a snapshot has changed", (unsigned long long)c);
    }
}

/* Bitmaps that are not valid any more are leaks: the directory, a table, its bits. */
static void check_clean(void)
{
    if (in.image.damaged)
        return;
    if (!in.after.usable || in.after.errors || in.after.bad || corrupt())
        panic("%llu errors, %llu bad entries", (unsigned long long)in.after.errors,
              (unsigned long long)in.after.bad);
    if (in.after.leaks > (in.image.bitmaps ? 3u : 0u))
        panic("%llu leaks", (unsigned long long)in.after.leaks);
}

/* ---- requests ---- */

enum op { OP_WRITE, OP_FUA, OP_ZEROES, OP_DISCARD, OP_FLUSH, OP_READ, OP_COMPRESSED, OP_REOPEN };

static enum op op_of(const uint8_t *r)
{
    static const uint8_t op[16] = {
        OP_WRITE,   OP_WRITE, OP_WRITE, OP_WRITE,      OP_FUA,   OP_ZEROES, OP_ZEROES,  OP_DISCARD,
        OP_DISCARD, OP_FLUSH, OP_READ,  OP_COMPRESSED, OP_WRITE, OP_ZEROES, OP_DISCARD, OP_REOPEN};
    return (enum op)op[r[0] & 15];
}

static void place(struct request *q, const uint8_t *r)
{
    uint64_t grain = r[3] & 1 ? 512 : r[3] & 2 ? unit() : 1;
    q->off = audit_be(r + 1, 2) * grain % in.disk;
    q->len = 1 + audit_be(r + 4, 2) % ((r[3] & 4) ? 65536 : 3 * unit());
    if ((r[3] & 8) || op_of(r) == OP_COMPRESSED) {
        q->off -= q->off % unit();
        q->len = align_up(q->len, unit());
    }
    q->len = MIN(q->len, in.disk - q->off);
}

static void fill(const struct request *q)
{
    for (size_t k = 0; k < q->len; k++)
        q->buf[k] = (uint8_t)(q->r[6] + (q->r[7] & 2 ? k * (k >> 5) : k / 64));
}

static int co_write(struct request *q, unsigned flags)
{
    struct seg seg[3];
    size_t third = q->len / 3;
    fill(q);
    struct iov v = iov_one(seg, q->buf, q->len);
    if (third && (q->r[7] & 4)) {
        seg[0] = (struct seg){q->buf, third};
        seg[1] = (struct seg){q->buf + third, third};
        seg[2] = (struct seg){q->buf + 2 * third, q->len - 2 * third};
    }
    return co_blk_pwritev(in.origin->root, q->off, v, flags);
}

static int co_act(struct request *q)
{
    struct child *c = in.origin->root;
    switch (op_of(q->r)) {
    case OP_WRITE:
        return co_write(q, 0);
    case OP_FUA:
        return co_write(q, BLK_FUA);
    case OP_COMPRESSED:
        return co_write(q, BLK_COMPRESSED);
    case OP_ZEROES:
        memset(q->buf, 0, q->len);
        return co_blk_pwrite_zeroes(c, q->off, q->len, q->r[7] & 1 ? BLK_MAY_UNMAP : 0);
    case OP_DISCARD:
        return co_blk_pdiscard(c, q->off, q->len);
    default:
        return co_blk_flush(c);
    }
}

static bool may_fail(const struct request *q, int r)
{
    return in.image.damaged || (r == SR_ENOSPC && in.full) ||
           (op_of(q->r) == OP_COMPRESSED && r == SR_ENOTSUP);
}

static void co_request(void *arg)
{
    struct request *q = arg;
    enum op op = op_of(q->r);
    int r = co_act(q);
    in.failed |= r != 0;
    if (r && !may_fail(q, r))
        panic("request %u: %s", op, sr_strerror(r));
    if (!r && q->was_corrupt && op != OP_DISCARD && op != OP_FLUSH)
        panic("written to a corrupt image");
    if (op != OP_FLUSH)
        set_known(q, r || op == OP_DISCARD ? UNKNOWN : WRITTEN);
    free(q->buf);
    q->busy = false;
    co_join_done(&in.join, 0);
}

static void co_wait_all(void)
{
    (void)co_join_wait(&in.join);
    co_join_init(&in.join);
}

/* Requests that run at the same time may share clusters, not bytes: the outcome is known. */
static struct request *co_place_for(const uint8_t *r)
{
    struct request now = {.r = r}, *free = NULL;
    place(&now, r);
    for (unsigned k = 0; k < RUNNING_MAX; k++) {
        struct request *q = &in.request[k];
        bool overlap = q->busy && now.off < q->off + q->len && q->off < now.off + now.len;
        if (overlap)
            co_wait_all();
        free = q->busy ? free : q;
    }
    if (!free) {
        co_wait_all();
        free = &in.request[0];
    }
    *free = now;
    return free;
}

static void co_start_request(const uint8_t *r)
{
    struct request *q = co_place_for(r);
    q->buf = malloc(q->len);
    q->busy = true;
    q->was_corrupt = corrupt();
    if (op_of(r) != OP_FLUSH)
        set_known(q, UNKNOWN);
    co_join_add(&in.join);
    co_start(&q->start, co_request, q);
    if (!(r[0] & 16))
        co_wait_all();
}

/* Requests that are under way become known meanwhile: not to this read. */
static void co_check_read(const uint8_t *r)
{
    struct request q;
    place(&q, r);
    uint8_t *buf = malloc(2 * q.len), *known = buf + q.len;
    memcpy(known, in.known + q.off, q.len);
    int res = co_blk_pread(in.origin->root, q.off, buf, q.len);
    if (!res || !in.image.damaged) /* one bad cluster fails all */
        compare(q.off, q.len, buf, res, known, !in.image.damaged);
    free(buf);
}

/* What was written and could not be flushed may be gone. */
static void co_finish(void)
{
    co_wait_all();
    in.failed |= co_blk_flush(in.origin->root) != 0;
    co_close();
}

/* After that it may be read-only: when it was found corrupt. */
static bool co_reopen(void)
{
    uint64_t disk = in.disk;
    co_finish();
    if (!co_open(false))
        co_open_again(true);
    if (in.disk != disk)
        panic("another size");
    return !in.origin->root->node->read_only;
}

static void co_script(void)
{
    bool writable = !in.origin->root->node->read_only;
    for (size_t k = 0; k < in.nrecords && writable; k++) {
        const uint8_t *r = in.records + k * RECORD_SIZE;
        if (r[0] < 128)
            continue;
        if (op_of(r) == OP_READ)
            co_check_read(r);
        else if (op_of(r) == OP_REOPEN)
            writable = co_reopen();
        else
            co_start_request(r);
    }
    co_finish();
}

/* ---- one input ---- */

static void co_refused(void)
{
    if (!was_dirty() && memcmp(in.pristine, in.image.file, in.image.len))
        panic("refused, but written to");
    if (co_open(true)) {
        uint8_t buf[512];
        for (uint64_t off = 0; off + sizeof(buf) < in.disk; off += 7919)
            (void)co_blk_pread(in.origin->root, off, buf, sizeof(buf));
        co_close();
    }
}

static void co_one(void *arg)
{
    (void)arg;
    co_join_init(&in.join);
    if (!co_open(false)) {
        co_refused();
    } else if (in.disk && in.before.usable) {
        co_learn();
        co_script();
        audit(&in.after, in.image.file, in.size);
        co_verify();
        check_snapshots();
        check_clean();
    } else {
        co_close();
    }
    in.done = true;
}

static void prepare(const uint8_t *p, size_t n)
{
    static const uint64_t rooms[] = {0, 0, 64u << 10, 1u << 20};
    uint8_t recipe[RECIPE_SIZE] = {0};
    memcpy(recipe, p, MIN(n, RECIPE_SIZE));
    in.records = p + MIN(n, RECIPE_SIZE);
    in.nrecords = MIN((n - MIN(n, RECIPE_SIZE)) / RECORD_SIZE, RECORDS_MAX);
    memset(in.image.file, 0, MAX(in.longest, in.image.end));
    if (in.image.external)
        memset(in.image.data, 0, 2 * DISK_MAX);
    memset(&in.image.damaged, 0, sizeof(in.image) - offsetof(struct image, damaged));
    image_make(&in.image, recipe);
    for (size_t k = 0; k < in.nrecords; k++)
        if (in.records[k * RECORD_SIZE] < 128)
            image_damage(&in.image, in.records + k * RECORD_SIZE);
    uint64_t room = rooms[recipe[4] >> 6];
    in.align = recipe[5] & 1 ? 512 : 1;
    in.slow = recipe[5] & 2;
    in.native_zeroes = recipe[5] & 4;
    in.native_discard = recipe[5] & 8;
    in.size = in.longest = in.image.len;
    in.full = room;
    in.most = room ? in.size + room : AUDIT_FILE_MAX;
    in.most -= in.most % 512;
    memcpy(in.pristine, in.image.file, in.size);
    audit(&in.before, in.pristine, in.size);
}

static void run(const uint8_t *p, size_t n)
{
    prepare(p, n);
    in.failed = false;
    fuzz_run(co_one, NULL, &in.done);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    in.image.file = calloc(1, AUDIT_FILE_MAX + 512);
    in.image.data = calloc(1, 2 * DISK_MAX);
    in.image.model = calloc(1, DISK_MAX);
    in.pristine = malloc(AUDIT_FILE_MAX);
    in.now = malloc(DISK_MAX);
    fuzz_boot(64);
    run((const uint8_t *)"", 0); /* what the first node takes for ever */
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    size_t pages = page_free_bytes();
    run(p, n);
    if (page_free_bytes() != pages)
        panic("pages are left");
    return 0;
}

/* ---- mutator: records are added, taken away, changed; or all is made anew ---- */

static uint32_t next(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

/* A recipe, a little damage, and some requests: what takes a mutator long to come to. */
static size_t compose(uint8_t *p, size_t max, uint32_t seed)
{
    seed = seed * 2654435761u + 1;
    unsigned damage = next(&seed) % 4, records = damage + 1 + next(&seed) % 10;
    size_t n = RECIPE_SIZE + records * RECORD_SIZE;
    if (n > max)
        return 0;
    for (size_t k = 0; k < n; k++)
        p[k] = (uint8_t)(next(&seed) >> 8);
    for (unsigned k = 0; k < records; k++) {
        uint8_t *r = p + RECIPE_SIZE + k * RECORD_SIZE;
        r[0] = (uint8_t)(k < damage ? r[0] & 0x7f : r[0] | 0x80);
    }
    return n;
}

static size_t insert(uint8_t *p, size_t n, size_t at, size_t max)
{
    uint8_t fresh[RECORD_SIZE] = {0};
    if (n + RECORD_SIZE > max)
        return n;
    LLVMFuzzerMutate(fresh, RECORD_SIZE, RECORD_SIZE);
    memmove(p + at + RECORD_SIZE, p + at, n - at);
    memcpy(p + at, fresh, RECORD_SIZE);
    return n + RECORD_SIZE;
}

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    size_t records = n > RECIPE_SIZE ? (n - RECIPE_SIZE) / RECORD_SIZE : 0;
    size_t at = RECIPE_SIZE + (records ? seed / 16 % records : 0) * RECORD_SIZE;
    if (seed % 16 >= 12)
        return compose(p, max, seed);
    if (n < RECIPE_SIZE || seed % 16 < 3)
        return LLVMFuzzerMutate(p, n, max);
    if (seed % 16 < 6 || !records)
        return insert(p, RECIPE_SIZE + records * RECORD_SIZE, at, max);
    if (seed % 16 == 6) {
        memmove(p + at, p + at + RECORD_SIZE, n - at - RECORD_SIZE);
        return n - RECORD_SIZE;
    }
    if (seed % 16 < 9)
        LLVMFuzzerMutate(p, RECIPE_SIZE, RECIPE_SIZE);
    else
        LLVMFuzzerMutate(p + at, RECORD_SIZE, RECORD_SIZE);
    return n;
}

#pragma clang attribute pop
