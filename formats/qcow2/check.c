/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Check and repair of a whole image, alone over its file.
 *
 * A check counts, for each cluster of the file, who refers to it, and compares that with the refcounts
 * in the file. What is counted does not fit into memory as a whole (2^30 clusters are no rarity, 16 MiB
 * of RAM neither), so it is done for one window of clusters after the other; the walk over all tables
 * is repeated for each:
 *
 *     clusters   0            step           2 step          ...        end of the file (+ 1: a
 *                |   window    |    window    |    window     |         compressed cluster may end
 *                                                                       in the last one's rest)
 *
 * The window is an array like that in a refcount block: same width, same order. So comparing is
 * memcmp, and a new refcount structure (repair.c) is the windows, written one behind the other.
 *
 * In each window: count (check_walk.c), compare, then look at the COPIED flags of the active tables,
 * which have to say what the refcounts in the file say. Numbers are those of `qemu-img check`.
 *
 * Repair makes no state worse that was there before, whenever the power fails: the references are the
 * truth, each refcount is set to what was counted, each independent of the others, and each step can
 * be done again from the start:
 *
 *     look    everything is counted and compared first; only then something is changed. Entries of
 *             reserved clusters (no data) with an impossible offset become zeroes.
 *     flush   then refcounts are set in place where their block is nobody else's; where there is no
 *             usable block, all are written anew beside what is there, and the header is switched.
 *             Flags follow from references, too, so they need not wait for refcounts to be stable.
 *     flush   then the dirty and the corrupt bit are cleared, if nothing is wrong any more.
 *
 * Where references were lost (a table outside of the file), what looks leaked may be what they led
 * to: such clusters are not freed, other than by QEMU. A read that fails ends the check, and nothing
 * is changed from then on.
 *
 * Missing on purpose: entries that point to the wrong place are not repaired (nor does QEMU): nobody
 * knows what they should be.
 */
#include "formats/qcow2/check.h"

#include <stdarg.h>
#include <stdio.h>

typedef unsigned long long ull;

size_t check_window_most = SIZE_MAX, check_reach_most = 1u << 20;
#define WINDOW_LEAST 512u

/* ---- talking to the file ---- */

void check_say(struct check *c, const char *fmt, ...)
{
    char text[200];
    va_list ap;
    if (!c->say)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    c->say(text);
}

static int failed(struct check *c, int r, const char *what, uint64_t off)
{
    c->res.check_errors++;
    return error_set(c->err, r, "Could not %s the image at offset 0x%llx: %s", what, (ull)off,
                     sr_strerror(r));
}

int co_check_read(struct check *c, uint64_t off, void *buf, size_t len)
{
    size_t have = off >= c->size ? 0 : (size_t)MIN(len, c->size - off);
    memset((char *)buf + have, 0, len - have);
    int r = have ? co_blk_pread(c->file, off, buf, have) : 0;
    return r ? failed(c, r, "read", off) : 0;
}

int co_check_write(struct check *c, uint64_t off, const void *buf, size_t len)
{
    size_t have = off >= c->size ? 0 : (size_t)MIN(len, c->size - off);
    int r = co_prepare_header(c);
    if (r || !have)
        return r;
    r = co_blk_pwrite(c->file, off, buf, have, 0);
    return r ? failed(c, r, "write", off) : 0;
}

int co_check_flush(struct check *c)
{
    int r = co_blk_flush(c->file);
    return r ? failed(c, r, "flush", 0) : 0;
}

bool check_may_write(const struct check *c, uint64_t table)
{
    if (c->overflow || c->nmixed == CHECK_MIXED || !is_aligned(table, c->cluster))
        return false;
    for (unsigned i = 0; i < c->nmixed; i++)
        if (c->mixed[i] == table >> c->bits)
            return false;
    return true;
}

/* Tables that are something else, too. An L2 table may have many references, but of one kind; the
 * active L1 table has one. */
static void collect_mixed(struct check *c)
{
    uint64_t l1 = c->img->l1_offset >> c->bits;
    uint64_t end = (c->img->l1_offset + 8ull * c->img->l1_size + c->cluster - 1) >> c->bits;
    for (size_t i = 0; i < c->kinds_size && c->nmixed < CHECK_MIXED; i++) {
        unsigned both = c->kinds[i] & c->kinds[i] >> 1 & 0x55;
        for (unsigned k = 0; k < 4 && both && c->nmixed < CHECK_MIXED; k++)
            if (both >> 2 * k & 1)
                c->mixed[c->nmixed++] = c->lo + 4 * i + k;
    }
    for (uint64_t k = MAX(l1, c->lo); k < MIN(end, c->hi); k++)
        c->mixed_l1 |= refs_get(c->window, c->order, k - c->lo) != 1;
}

/* ---- windows ---- */

int co_each_window(struct check *c, uint64_t clusters, int (*co_then)(struct check *c))
{
    int r = 0;
    for (c->lo = 0; c->lo < clusters && !r; c->lo += c->step) {
        c->hi = MIN(c->lo + c->step, clusters);
        c->first = c->lo == 0;
        c->last = c->hi == clusters;
        r = co_count_all(c);
        if (!r)
            r = co_then(c);
    }
    return r;
}

/* ---- comparing ---- */

struct refs {
    uint64_t first; /* cluster of the first */
    uint64_t n;
    uint64_t off;  /* where they are in the file; 0: nowhere */
    bool in_place; /* may be changed there */
    uint8_t *counted, *stored;
    bool changed;
};

static int co_table_entry(struct check *c, uint64_t i, uint64_t *entry)
{
    const uint64_t per = ARRAY_LEN(c->table.entry);
    uint64_t at = i - i % per;
    *entry = 0;
    if (i >= c->img->reftable_bytes / 8)
        return 0;
    if (!c->table.valid || c->table.at != at) {
        c->table.valid = false;
        int r = co_check_read(c, c->img->reftable_offset + 8 * at, c->table.entry,
                              sizeof(c->table.entry));
        if (r)
            return r;
        c->table.valid = true;
        c->table.at = at;
    }
    *entry = be64_get(c->table.entry[i % per]);
    return 0;
}

/* Of a block that cannot be used, what QEMU would read. */
static int co_stored(struct check *c, struct refs *s, size_t bytes)
{
    uint64_t byte = (s->first << c->order) / 8, entry;
    int r = co_table_entry(c, byte >> c->bits, &entry);
    if (r)
        return r;
    uint64_t block = entry & ~QCOW2_REFTABLE_RESERVED;
    bool there = block && is_aligned(block, c->cluster);
    s->in_place = there && block == entry && range_ok(block, c->cluster, c->size);
    s->off = block + (byte & (c->cluster - 1));
    if (there)
        return co_check_read(c, s->off, s->stored, bytes);
    memset(s->stored, 0, bytes);
    return 0;
}

/* Of the next clusters of the window; false: that was all. */
static bool next_refs(struct check *c, struct refs *s, size_t *at, size_t *bytes)
{
    *bytes = MIN(MIN(c->window_size, CHECK_CHUNK), (size_t)c->cluster);
    *s = (struct refs){
        .first = c->lo + (8 * *at >> c->order), .counted = c->window + *at, .stored = c->block};
    if (*at == c->window_size || s->first >= c->hi)
        return false;
    s->n = MIN(8 * *bytes >> c->order, c->hi - s->first);
    *at += *bytes;
    return true;
}

int co_check_add_stored(struct check *c)
{
    struct refs s;
    size_t at = 0, bytes;
    while (next_refs(c, &s, &at, &bytes)) {
        int r = co_stored(c, &s, bytes);
        if (r)
            return r;
        for (uint64_t i = 0; i < s.n; i++)
            if (!refs_get(s.counted, c->order, i))
                refs_set(s.counted, c->order, i, refs_get(s.stored, c->order, i));
    }
    return 0;
}

static void compare_one(struct check *c, struct refs *s, uint64_t i)
{
    uint64_t counted = refs_get(s->counted, c->order, i), stored = refs_get(s->stored, c->order, i);
    if (s->first + i >= c->clusters && !counted)
        return; /* behind the file */
    if (counted | stored)
        c->highest = s->first + i + 1;
    if (counted == stored)
        return;
    bool leak = stored > counted;
    check_say(c, "%s cluster %llu refcount=%llu reference=%llu", leak ? "Leaked" : "ERROR",
              (ull)(s->first + i), (ull)stored, (ull)counted);
    c->rebuild |= !leak && !s->in_place;
    if (s->in_place && (leak ? c->fix & BLK_FIX_LEAKS && !c->lost : c->fix & BLK_FIX_ERRORS)) {
        refs_set(s->stored, c->order, i, counted);
        s->changed = true;
        c->res.leaks_fixed += leak;
        c->res.corruptions_fixed += !leak;
    } else {
        c->res.leaks += leak;
        c->res.corruptions += !leak;
    }
}

static bool all_zero(const uint8_t *p, size_t len)
{
    return !*p && !memcmp(p, p + 1, len - 1);
}

static void compare(struct check *c, struct refs *s, size_t bytes)
{
    uint64_t i = s->n;
    if (s->first + s->n > c->clusters || memcmp(s->counted, s->stored, bytes)) {
        for (i = 0; i < s->n; i++)
            compare_one(c, s, i);
    } else if (!all_zero(s->stored, bytes)) {
        while (i && !refs_get(s->stored, c->order, i - 1))
            i--;
        c->highest = s->first + i;
    }
}

/* Afterwards the window has what the file has. */
static int co_compare_window(struct check *c)
{
    struct refs s;
    size_t at = 0, bytes;
    int r = co_check_flush(c); /* entries that were changed while counting */
    while (!r && next_refs(c, &s, &at, &bytes)) {
        r = co_stored(c, &s, bytes);
        if (r)
            break;
        compare(c, &s, bytes);
        if (s.changed)
            r = co_check_write(c, s.off, s.stored, bytes);
        memcpy(s.counted, s.stored, bytes);
    }
    return r;
}

/* ---- COPIED ---- */

static void judge(struct walk *w, be64 *at, uint64_t refcount, bool may_write)
{
    struct check *c = w->c;
    uint64_t entry = be64_get(*at);
    bool copied = refcount == 1;
    if (copied == !!(entry & QCOW2_COPIED))
        return;
    check_say(c, "ERROR OFLAG_COPIED cluster: entry=%llx refcount=%llu", (ull)entry, (ull)refcount);
    bool known = (c->fix & BLK_FIX_ERRORS) || (!c->res.corruptions && !c->res.leaks);
    if (!c->fix || !known || !may_write) {
        c->flags_wrong++;
        return;
    }
    be64_set(at, entry ^ QCOW2_COPIED);
    w->changed = true;
    c->flags_fixed++;
}

/* Of a cluster outside of the file, which no window has. */
static int co_refcount_outside(struct check *c, uint64_t cluster, uint64_t *n)
{
    uint64_t per = 64u >> c->order, stored;
    struct refs s = {.first = cluster - cluster % per, .stored = (uint8_t *)&stored};
    int r = co_stored(c, &s, sizeof(stored));
    *n = r ? 0 : refs_get(s.stored, c->order, cluster % per);
    return r;
}

static int co_judge(struct walk *w, be64 *at, uint64_t host, bool may_write)
{
    struct check *c = w->c;
    uint64_t k = host >> c->bits, n;
    int r = 0;
    if (k >= c->lo && k < c->hi)
        n = refs_get(c->window, c->order, k - c->lo);
    else if (k >= c->hi && c->last)
        r = co_refcount_outside(c, k, &n);
    else
        return 0; /* another window's */
    if (!r)
        judge(w, at, n, may_write);
    return r;
}

static int co_judge_l1(struct walk *w, be64 *at)
{
    struct check *c = w->c;
    uint64_t host = be64_get(*at) & QCOW2_OFFSET_MASK;
    return host ? co_judge(w, at, host, !c->mixed_l1 && !c->overflow) : 0;
}

static int co_judge_l2(struct walk *w, be64 *at)
{
    struct check *c = w->c;
    uint64_t entry = be64_get(*at);
    if (!check_has_cluster(c, entry))
        return 0;
    bool may_write = check_may_write(c, w->table);
    if (!c->external)
        return co_judge(w, at, entry & QCOW2_OFFSET_MASK, may_write);
    if (c->first)
        judge(w, at, 1, may_write);
    return 0;
}

static int co_judge_flags(struct check *c)
{
    struct walk w = {.c = c,
                     .l1 = c->img->l1_offset,
                     .entries = c->img->l1_size,
                     .active = true,
                     .co_see_l1 = co_judge_l1,
                     .co_see_l2 = co_judge_l2};
    c->nth_table = 0;
    return c->strange_l1 ? 0 : co_walk(&w);
}

/* ---- passes ---- */

static int co_look_at_window(struct check *c)
{
    if (!c->fix)
        collect_mixed(c);
    int r = co_compare_window(c);
    return !r && c->flags ? co_judge_flags(c) : r;
}

static void forget(struct check *c)
{
    c->res = (struct blk_check){0};
    c->flags_wrong = c->flags_fixed = c->short_snapshots = c->highest = 0;
    c->lost = c->rebuild = false;
    c->table.valid = false;
    c->outside = UINT64_MAX;
}

static int co_pass(struct check *c, unsigned fix, bool flags)
{
    forget(c);
    c->fix = fix;
    c->flags = flags;
    int r = co_each_window(c, c->clusters + 1, co_look_at_window);
    c->say = NULL; /* others would say the same again */
    return r;
}

static int co_fix(struct check *c, unsigned fix)
{
    struct blk_check before = c->res;
    bool rebuild = c->rebuild || (c->short_snapshots && (fix & BLK_FIX_ERRORS));
    if (rebuild && !(fix & BLK_FIX_ERRORS)) {
        c->res.check_errors++;
        return error_set(c->err, SR_EIO, "The refcounts have to be rebuilt, with all repairs");
    }
    int r = rebuild ? co_rebuild(c) : 0;
    if (!r)
        r = co_pass(c, fix, true);
    if (!rebuild)
        return r;
    if (before.corruptions > c->res.corruptions)
        c->res.corruptions_fixed += before.corruptions - c->res.corruptions;
    if (before.leaks > c->res.leaks)
        c->res.leaks_fixed += before.leaks - c->res.leaks;
    return r;
}

static int co_run(struct check *c, unsigned fix)
{
    void (*say)(const char *) = c->say;
    c->fix_entries = fix & BLK_FIX_ERRORS;
    int r = co_pass(c, 0, !fix);
    if (!r && fix)
        r = co_fix(c, fix);
    if (!r && fix && say && c->lost && c->res.leaks)
        say("leaks are left alone: what could not be followed may refer to them");
    c->res.corruptions += c->flags_wrong;
    c->res.corruptions_fixed += c->flags_fixed;
    if (!r && fix && !c->res.corruptions)
        r = co_clear_bits(c);
    c->res.total_clusters = (align_down(c->img->size, 512) + c->cluster - 1) >> c->bits;
    c->res.image_end_offset = c->highest << c->bits;
    return r;
}

/* ---- beginning and ending ---- */

static int co_read_image(struct check *c)
{
    size_t len = (size_t)MIN(c->size, QCOW2_HEAD_MAX);
    int r = co_check_read(c, 0, c->block, len);
    if (r)
        return r;
    r = qcow2_parse_header_to_repair(c->img, c->block, len, c->size, c->err);
    if (r)
        return r;
    struct qcow2_image *img = c->img;
    c->bits = img->cluster_bits;
    c->cluster = 1ull << c->bits;
    c->order = img->refcount_order;
    c->extended = img->incompatible & QCOW2_INCOMPAT_EXTL2;
    c->external = img->incompatible & QCOW2_INCOMPAT_DATA_FILE;
    c->clusters = (c->size + c->cluster - 1) >> c->bits;
    c->bad_reftable = img->reftable_bytes > QCOW2_MAX_REFTABLE_BYTES ||
                      !is_aligned(img->reftable_offset, c->cluster);
    if (c->bad_reftable || !img->reftable_offset)
        img->reftable_offset = img->reftable_bytes = 0;
    return co_measure_snapshots(c);
}

static void *take(size_t bytes)
{
    return fault(FAULT_ALLOC) ? NULL : page_alloc(bytes);
}

/* Two bits for each of the refcounts in `size` bytes. */
static size_t kinds_for(const struct check *c, uint64_t size)
{
    return (size_t)(2 * size >> c->order);
}

/* For as many tables as the file can have; if there is no memory, they are walked for each window. */
static void open_reach(struct check *c)
{
    uint64_t most = MIN(page_free_bytes() / 8, check_reach_most) / sizeof(*c->reach);
    c->nreach = MIN(most, c->clusters);
    c->reach = c->nreach ? take((size_t)c->nreach * sizeof(*c->reach)) : NULL;
    if (!c->reach)
        c->nreach = 0;
}

/* A quarter of what is free, or as much as comes in one run. */
static int open_window(struct check *c)
{
    uint64_t most = MIN(page_free_bytes() / 4, check_window_most);
    uint64_t want = ((c->clusters + 1) << c->order) / 8 + 1, size = WINDOW_LEAST;
    while (size < want && 2 * (size + kinds_for(c, size)) <= most)
        size *= 2;
    while (!(c->window = take(size + kinds_for(c, size))) && size > PAGE_SIZE)
        size /= 2;
    if (!c->window)
        return error_set(c->err, SR_ENOMEM, "Could not allocate memory to check the image");
    c->window_size = size;
    c->kinds_size = kinds_for(c, size);
    c->kinds = c->window + size;
    c->step = 8 * size >> c->order;
    if (c->step <= c->clusters && !c->external)
        open_reach(c);
    return 0;
}

static int open_buffers(struct check *c)
{
    c->img = sr_calloc(1, sizeof(*c->img));
    c->l1 = take(CHECK_CHUNK);
    c->l2 = take(CHECK_CHUNK);
    c->block = take(CHECK_CHUNK);
    if (c->img && c->l1 && c->l2 && c->block)
        return 0;
    return error_set(c->err, SR_ENOMEM, "Could not allocate memory to check the image");
}

static void close_buffers(struct check *c)
{
    if (c->reach)
        page_free(c->reach, (size_t)c->nreach * sizeof(*c->reach));
    if (c->window)
        page_free(c->window, c->window_size + c->kinds_size);
    if (c->block)
        page_free(c->block, CHECK_CHUNK);
    if (c->l2)
        page_free(c->l2, CHECK_CHUNK);
    if (c->l1)
        page_free(c->l1, CHECK_CHUNK);
    sr_free(c->img);
}

static int co_check(struct check *c, unsigned fix)
{
    int r = open_buffers(c);
    if (!r)
        r = co_read_image(c);
    if (!r)
        r = open_window(c);
    if (!r)
        r = co_run(c, fix);
    close_buffers(c);
    return r;
}

/* *safe: each refcount is right. */
static int co_check_file(struct child *file, unsigned fix, struct blk_check *res, bool *safe,
                         struct error *err)
{
    void (*say)(const char *line) = res->say;
    struct check *c = sr_calloc(1, sizeof(*c));
    *res = (struct blk_check){.check_errors = 1, .say = say};
    if (!c)
        return error_set(err, SR_ENOMEM, "Could not allocate memory to check the image");
    *c = (struct check){.file = file, .err = err, .size = file->node->size, .say = say};
    int r = co_check(c, fix);
    *res = c->res;
    res->say = say;
    *safe = !c->overflow && !c->rebuild;
    sr_free(c);
    return r;
}

int co_qcow2_check(struct child *file, unsigned fix, struct blk_check *res, struct error *err)
{
    bool safe;
    return co_check_file(file, fix, res, &safe, err);
}

int co_qcow2_repair_open(struct child *file, struct error *err)
{
    struct blk_check res = {0};
    bool safe;
    int r = co_check_file(file, BLK_FIX_LEAKS | BLK_FIX_ERRORS, &res, &safe, err);
    if (r) {
        error_prepend(err, "Could not repair dirty image");
        return r;
    }
    log_line("qcow2",
             "node %s: image was not closed: %llu refcounts and flags, %llu leaks repaired, %llu "
             "errors left",
             file->parent ? file->parent->name : "?", (ull)res.corruptions_fixed,
             (ull)res.leaks_fixed, (ull)res.corruptions);
    if (!safe)
        return error_set(err, SR_EIO,
                         "Could not repair dirty image: clusters have more references "
                         "than a refcount can say");
    return 0;
}
