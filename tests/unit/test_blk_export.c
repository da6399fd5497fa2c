/* SPDX-License-Identifier: BSD-2-Clause */
/* Exports of all types, disks and who claims them, names of volumes. */
#include "tests/unit/support.h"
#include "tests/unit/memdisk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- an export type ---- */

struct toy_options {
    const char *mood;
};
static const struct field toy_fields[] = {
    FIELD_OPTS(struct toy_options, mood, "mood", &type_str, "bad: fails to open"),
    {0},
};
static const struct type toy_type =
    TYPE_STRUCT_OF("BlockExportOptionsToy", struct toy_options, toy_fields);
static unsigned toys;

static int co_toy_open(struct export *e, const void *opts, struct error *err)
{
    const struct toy_options *o = opts;
    (void)err; /* the core finds words */
    if (o->mood && !strcmp(o->mood, "bad"))
        return SR_EADDRINUSE;
    assert_non_null(e->origin.root);
    *(unsigned *)e->state = ++toys;
    return 0;
}

static void co_toy_close(struct export *e, uint64_t deadline_ns)
{
    (void)deadline_ns;
    assert_true(e->shutting_down);
    toys--;
}

static const struct export_type export_toy = {.name = "toy",
                                              .options = &toy_type,
                                              .state_size = sizeof(unsigned),
                                              .co_open = co_toy_open,
                                              .co_close = co_toy_close};
REGISTER(export_type, export_toy);

static int co_try_export(const char *text, struct error *err)
{
    *err = (struct error){0};
    struct value *def = schema_parse_keyval(text, "type", err);
    assert_non_null(def);
    int r = co_export_add(def, true, err);
    value_free(def);
    return r;
}

static void co_exports(void *arg)
{
    static const char *const wrong[][2] = {
        {"nosuch,id=e,node-name=m", "Parameter 'type' does not accept value 'nosuch'"},
        {"toy,node-name=m", "Parameter 'id' is missing"},
        {"toy,id=e", "Parameter 'node-name' is missing"},
        {"toy,id=1,node-name=m", "Invalid block export id"},
        {"toy,id=taken,node-name=m", "Block export id 'taken' is already in use"},
        {"toy,id=e,node-name=nope", "Cannot find device='' nor node-name='nope'"},
        {"toy,id=e,node-name=ro,writable=on", "Cannot export read-only node as writable"},
        {"toy,id=e,node-name=m,mood=bad", "Could not open export 'e': Address already in use"},
    };
    struct error err;
    (void)arg;
    test_open("mem,node-name=m");
    test_open("mem,node-name=ro,read-only=on");
    assert_int_equal(co_try_export("toy,id=taken,node-name=m,writethrough=on,writable=on", &err),
                     0);
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
        assert_true(co_try_export(wrong[i][0], &err) < 0);
        assert_string_equal(err.msg, wrong[i][1]);
        assert_int_equal(node_find("m")->refs, 2);
        assert_int_equal(node_find("ro")->refs, 1);
    }
    struct export *e = export_find("taken");
    assert_int_equal(e->origin.root->write_flags, BLK_FUA);
    assert_true(e->writable && e->writethrough);
    assert_int_equal(co_try_export("toy,id=e2,node-name=ro", &err), 0);
    assert_false(export_find("e2")->writable || export_find("e2")->origin.root->writable);
    assert_int_equal(toys, 2);
    co_export_del(e, 0);
    assert_null(export_find("taken"));
    assert_int_equal(node_find("m")->refs, 1);
}

/* Each allocation of an addition fails once; nothing stays behind. */
static void co_nth_alloc(void *arg)
{
    struct error err = {0};
    struct value *def = schema_parse_keyval("toy,id=e,node-name=m,writable=on", "type", &err);
    bool fired = true;
    (void)arg;
    for (unsigned n = 1; fired; n++) {
        err = (struct error){0};
        fault_arm(FAULT_ALLOC, n, false);
        int r = co_export_add(def, true, &err);
        fired = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0, false);
        assert_int_equal(r, fired ? SR_ENOMEM : 0);
        assert_int_equal(err.set, fired);
        assert_int_equal(node_find("m")->refs, fired ? 1 : 2);
        assert_true(fired || n > 4);
    }
    co_export_del(export_find("e"), 0);
    value_free(def);
}

/* A request in flight outlives the deadline neither way: hooks leave it behind, then it ends. */
static void co_straggler(void *arg)
{
    uint8_t b[16];
    struct origin *o = arg;
    co_origin_enter(o);
    assert_int_equal(co_blk_pread(o->root, 0, b, 16), 0);
    origin_leave(o);
}

static void run_hook(const char *name, uint64_t ns)
{
    registry_for_each (stop_hook, h)
        if (!strcmp((*h)->name, name))
            (*h)->co_run(board_clock_ns() + ns);
}

static void co_stop(void *arg)
{
    static struct co_start start;
    struct error err;
    (void)arg;
    assert_int_equal(co_try_export("toy,id=e1,node-name=m", &err), 0);
    struct memdisk *m = memdisk_of(node_find("m"));
    memdisk_hold(m, MEM_READ);
    co_start(&start, co_straggler, &export_find("e1")->origin);
    co_reschedule();
    run_hook("exports", 20000000);
    assert_non_null(export_find("e1")); /* still in flight */
    memdisk_release(m);
    for (unsigned i = 0; i < 100; i++)
        co_reschedule();
    assert_true(list_empty(export_list()));
    assert_int_equal(toys, 0);
    run_hook("nodes", 1000000000);
    assert_true(list_empty(node_list()));
}

static void test_exports(void **state)
{
    (void)state;
    test_co_run(co_exports, NULL);
    test_co_run(co_nth_alloc, NULL);
    test_co_run(co_stop, NULL);
}

/* ---- disks ---- */

static struct disk disks[] = {
    {.driver = "virtio-blk",
     .address = "pci 00:02.0",
     .serial = "d0",
     .size = 536870912,
     .block_size = 512},
    {.driver = "virtio-blk",
     .address = "mmio feb00e00",
     .serial = "b\001d",
     .size = 4096,
     .block_size = 4096,
     .read_only = true},
    {.driver = "ahci", .address = "pci 00:1f.2", .serial = "", .size = 1, .block_size = 512},
};

static void announce(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < ARRAY_LEN(disks); i++)
        disk_announce(&disks[i]);
}

static void test_announce(void **state)
{
    char out[1024];
    (void)state;
    assert_int_equal(test_in_child(announce, NULL, out, sizeof(out)), 0);
    assert_non_null(
        strstr(out, "] disk 0: virtio-blk pci 00:02.0 serial d0 size 536870912 block 512 ro 0\n"));
    assert_non_null(
        strstr(out, "] disk 1: virtio-blk mmio feb00e00 serial b?d size 4096 block 4096 ro 1\n"));
    assert_non_null(strstr(out, "] disk 2: ahci pci 00:1f.2 serial - size 1 block 512 ro 0\n"));
    announce(NULL);
}

static void test_claim(void **state)
{
    static struct node n = {.name = "user"};
    static const struct {
        const char *driver;
        struct disk_options o;
        int r, which;
        const char *said;
    } cases[] = {
        {"virtio-blk", {.serial = "d0"}, 0, 0, NULL},
        {"virtio-blk",
         {.serial = "d0"},
         SR_EBUSY,
         0,
         "Disk with serial 'd0' is in use by node 'user'"},
        {"virtio-blk",
         {.pci = "00:02.0"},
         SR_EBUSY,
         0,
         "Disk with pci '00:02.0' is in use by node 'user'"},
        {"virtio-blk", {.serial = "zzz"}, SR_ENODEV, 0, "No virtio-blk disk with serial 'zzz'"},
        {"virtio-blk", {.pci = "00:1f.2"}, SR_ENODEV, 0, "No virtio-blk disk with pci '00:1f.2'"},
        {"virtio-blk",
         {.has_index = true, .index = 2},
         SR_ENODEV,
         0,
         "No virtio-blk disk with index 2"},
        {"virtio-blk",
         {.has_index = true, .index = -1},
         SR_ENODEV,
         0,
         "No virtio-blk disk with index -1"},
        {"virtio-blk",
         {0},
         SR_EINVAL,
         0,
         "Exactly one of 'serial', 'pci' and 'index' must be given"},
        {"virtio-blk",
         {.serial = "d0", .pci = "00:02.0"},
         SR_EINVAL,
         0,
         "Exactly one of 'serial', 'pci' and 'index' must be given"},
        {"virtio-blk", {.has_index = true, .index = 1}, 0, 1, NULL},
        {"ahci", {.pci = "00:1F.2"}, 0, 2, NULL},
    };
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct error err = {0};
        struct disk *d = NULL;
        assert_int_equal(disk_claim(cases[i].driver, &cases[i].o, &n, &d, &err), cases[i].r);
        if (cases[i].r)
            assert_string_equal(err.msg, cases[i].said);
        else
            assert_ptr_equal(d, &disks[cases[i].which]);
    }
    disk_release(&disks[1]);
    assert_null(disks[1].user);
}

/* ---- names ---- */

static void co_volumes(void *arg)
{
    struct error err = {0};
    (void)arg;
    test_open("mem,node-name=m");
    struct value *v = volume_resolve("node:m", "", &err);
    assert_string_equal(value_get_str(v), "m");
    value_free(v);
    v = volume_resolve("serial:b?d", "", &err);
    assert_string_equal(value_get_str(value_get(v, "driver")), "virtio-blk");
    assert_string_equal(value_get_str(value_get(v, "serial")), "b?d");
    value_free(v);
    v = volume_resolve("serial:d0", "", &err); /* claimed: its node */
    assert_string_equal(value_get_str(v), "user");
    value_free(v);
    static const char *const wrong[][2] = {
        {"serial:zzz", "Could not open 'serial:zzz': No such disk"},
        {"node:zzz", "Cannot find device='zzz' nor node-name='zzz'"},
        {"nbd://host/x", "Could not open 'nbd://host/x': Unknown kind of name"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
        err = (struct error){0};
        assert_null(volume_resolve(wrong[i][0], "", &err));
        assert_string_equal(err.msg, wrong[i][1]);
    }
    run_hook("nodes", 1000000000);
}

static void test_volumes(void **state)
{
    (void)state;
    test_co_run(co_volumes, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exports),
        cmocka_unit_test(test_announce),
        cmocka_unit_test(test_claim),
        cmocka_unit_test(test_volumes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
