/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2 images that lie, checked and repaired.
 *
 *     input   recipe | damage | damage | ...        of support_image.h
 *
 * The recipe becomes an image, the damage is done to it. Through a window as large as the image and
 * through the least one the check has to find the same; then the image is repaired, on a file that
 * grows or one that does not, and checked again. Whatever the damage, nothing may crash, hang or leave
 * memory behind, and:
 *   - what belongs to a guest, by a second opinion (support_audit.h), has not changed;
 *   - an image that is said to be in order is that at the next look and for the second opinion, too;
 *   - an image that was not damaged is in order, and nothing is written to it.
 */
#include "tests/fuzz/support_audit.h"
#include "tests/fuzz/support_image.h"
#include "formats/qcow2/check.h"
#include "tests/fuzz/support_boot.h"

#include <stdlib.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

#define DAMAGES_MAX 16u

static struct {
    struct image image;
    uint8_t *pristine;
    uint64_t size, most; /* of the file below */
    unsigned fix;
    bool written, done;
    struct audit before, after;
} in;

/* ---- the file ---- */

static int co_input_open(struct node *n, const void *opts, struct error *err)
{
    (void)opts, (void)err;
    n->size = in.size;
    return 0;
}

static int co_input_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    (void)flags;
    if (!range_ok(off, v.len, n->size))
        panic("a read outside of the file");
    iov_copy_in(v, 0, in.image.file + off, v.len);
    return 0;
}

static int co_input_pwritev(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    (void)flags;
    if (!range_ok(off, v.len, n->size))
        panic("a write outside of the file");
    iov_copy_out(in.image.file + off, v, 0, v.len);
    in.written = true;
    return 0;
}

static int co_input_truncate(struct node *n, uint64_t size)
{
    if (size > in.most)
        return SR_ENOSPC;
    if (size > n->size)
        memset(in.image.file + n->size, 0, size - n->size);
    in.size = size;
    return 0;
}

static const struct blk_driver fuzz_input = {.name = "input",
                                             .protocol = true,
                                             .co_open = co_input_open,
                                             .co_preadv = co_input_preadv,
                                             .co_pwritev = co_input_pwritev,
                                             .co_truncate = co_input_truncate};
REGISTER(blk_driver, fuzz_input);

/* ---- one image ---- */

static int co_check(struct child *c, size_t window, unsigned fix, struct blk_check *k)
{
    struct error err = {0};
    check_window_most = window;
    int r = co_qcow2_check(c, fix, k, &err);
    if (!r != !err.set)
        panic("%d, and %s sentence", r, err.set ? "a" : "no");
    return r;
}

/* Trusted clusters of guests and bitmaps. Metadata may have been put right. */
static void expect_data(void)
{
    uint64_t unit = 1ull << in.before.bits;
    for (uint64_t c = 0; in.before.usable && c < in.before.clusters; c++) {
        const struct spot *s = &in.before.spot[c];
        uint64_t at = c * unit, len = MIN(unit, in.before.len - at);
        if (s->trusted && (s->roles & (ROLE_DATA | ROLE_PACKED)) &&
            memcmp(in.pristine + at, in.image.file + at, len))
            panic("cluster %llu of a guest has changed", (unsigned long long)c);
    }
}

/* A cluster may be two things, if its refcount says so. */
static void expect_order(void)
{
    audit(&in.after, in.image.file, in.size);
    for (uint64_t c = 0; in.after.usable && c < in.after.clusters; c++) {
        const struct spot *s = &in.after.spot[c];
        if (s->refs != s->stored || s->lied)
            panic("in order, but cluster %llu has refcount %llu, %u references%s",
                  (unsigned long long)c, (unsigned long long)s->stored, s->refs,
                  s->lied ? ", a wrong flag" : "");
    }
}

static void co_repair(struct child *c, const struct blk_check *found)
{
    struct blk_check left = {0}, again = {0};
    int r = co_check(c, in.size % 3 ? 512 : SIZE_MAX, in.fix, &left);
    expect_data();
    if (r || co_check(c, SIZE_MAX, 0, &again))
        return; /* no room, or only leaks and more is needed */
    if (left.corruptions | left.leaks)
        return; /* tables that lie upon each other may read otherwise now */
    if (again.corruptions | again.leaks)
        panic("all was repaired, but there are %llu corruptions and %llu leaks",
              (unsigned long long)again.corruptions, (unsigned long long)again.leaks);
    expect_order();
    if (!(found->corruptions | found->leaks) && in.written && !in.image.dirty && !in.image.damaged)
        panic("nothing was wrong, but something was written");
}

static void co_image(struct child *c)
{
    struct blk_check wide = {0}, narrow = {0};
    check_reach_most = in.size % 2 ? 1 << 20 : 64;
    int r = co_check(c, SIZE_MAX, 0, &wide);
    if (r != co_check(c, 512, 0, &narrow))
        panic("the window decides whether there is an image");
    if (r && !in.image.damaged)
        panic("not damaged, but not to be checked");
    if (r)
        return;
    if (memcmp(&wide, &narrow, sizeof(wide)))
        panic("%llu corruptions, %llu leaks through a wide window, %llu and %llu through a narrow",
              (unsigned long long)wide.corruptions, (unsigned long long)wide.leaks,
              (unsigned long long)narrow.corruptions, (unsigned long long)narrow.leaks);
    if ((wide.corruptions | wide.leaks) && !in.image.damaged && !in.image.dirty)
        panic("not damaged, but in disorder");
    if (in.written)
        panic("a check that writes");
    co_repair(c, &wide);
}

static void co_one(void *arg)
{
    struct error err = {0};
    struct node *n = NULL;
    (void)arg;
    struct value *def = schema_parse_keyval("driver=input,node-name=m", "driver", &err);
    struct origin *o = blk_calloc(sizeof(*o));
    if (co_node_open(def, true, true, &n, &err) || origin_open(o, n, true, &err))
        panic("%s", err.msg);
    value_free(def);
    co_image(o->root);
    co_origin_close(o);
    blk_free(o);
    n->monitor_owned = false;
    co_node_unref(n);
    in.done = true;
}

static void prepare(const uint8_t *p, size_t n)
{
    uint8_t recipe[RECIPE_SIZE] = {0};
    memcpy(recipe, p, MIN(n, RECIPE_SIZE));
    size_t damages = n < RECIPE_SIZE ? 0 : MIN((n - RECIPE_SIZE) / RECORD_SIZE, DAMAGES_MAX);
    memset(in.image.file, 0, MAX(in.size, in.image.end));
    if (in.image.external)
        memset(in.image.data, 0, 2 * DISK_MAX);
    memset(&in.image.damaged, 0, sizeof(in.image) - offsetof(struct image, damaged));
    image_make(&in.image, recipe);
    for (size_t k = 0; k < damages; k++)
        image_damage(&in.image, p + RECIPE_SIZE + k * RECORD_SIZE);
    in.size = in.image.len;
    in.most = recipe[4] & 64 ? in.size : AUDIT_FILE_MAX;
    in.fix = recipe[5] & 7 ? BLK_FIX_LEAKS | BLK_FIX_ERRORS : BLK_FIX_LEAKS;
    in.written = false;
    memcpy(in.pristine, in.image.file, in.size);
    audit(&in.before, in.pristine, in.size);
}

static void run(const uint8_t *p, size_t n)
{
    prepare(p, n);
    fuzz_run(co_one, NULL, &in.done);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    in.image.file = calloc(1, AUDIT_FILE_MAX + 512);
    in.image.data = calloc(1, 2 * DISK_MAX);
    in.image.model = calloc(1, DISK_MAX);
    in.pristine = malloc(AUDIT_FILE_MAX);
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

/* ---- mutator: damages are added and changed, or the recipe ---- */

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    size_t records = n > RECIPE_SIZE ? (n - RECIPE_SIZE) / RECORD_SIZE : 0;
    if (n < RECIPE_SIZE || seed % 8 == 0)
        return LLVMFuzzerMutate(p, n, max);
    n = RECIPE_SIZE + records * RECORD_SIZE;
    uint8_t *record = p + RECIPE_SIZE + (records ? seed / 8 % records : 0) * RECORD_SIZE;
    if (seed % 8 < 3 && n + RECORD_SIZE <= max) {
        memset(p + n, 0, RECORD_SIZE);
        LLVMFuzzerMutate(p + n, RECORD_SIZE, RECORD_SIZE);
        return n + RECORD_SIZE;
    }
    LLVMFuzzerMutate(seed % 8 < 5 || !records ? p : record, RECORD_SIZE, RECORD_SIZE);
    return n;
}
