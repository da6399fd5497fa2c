/* SPDX-License-Identifier: BSD-2-Clause */
/* The graph: definitions and their errors, references, closing order, depth, drain, resize. */
#include "tests/unit/support.h"
#include "tests/unit/memdisk.h"

#include <stdio.h>
#include <string.h>

/* ---- definitions ---- */

static void close_named(const char *name)
{
    struct node *n = node_find(name);
    assert_non_null(n);
    n->monitor_owned = false;
    co_node_unref(n);
}

static void co_errors(void *arg)
{
    static const char *const cases[][2] = {
        {"nosuch,node-name=y", "Parameter 'driver' does not accept value 'nosuch'"},
        {"node-name=y", "Parameter 'driver' is missing"},
        {"mem", "'node-name' must be specified for the root node"},
        {"mem,node-name=1y", "Invalid node-name: '1y'"},
        {"mem,node-name=", "Invalid node-name: ''"},
        {"mem,node-name=a b", "Invalid node-name: 'a b'"},
        {"mem,node-name=x", "Duplicate nodes with node-name='x'"},
        {"mem,node-name=aaaaaaaaaabbbbbbbbbbccccccccccdd", "Node name too long"},
        {"mem,node-name=y,foo=bar", "Parameter 'foo' is unexpected"},
        {"mem,node-name=y,discard=foo", "Parameter 'discard' does not accept value 'foo'"},
        {"mem,node-name=y,read-only=foo", "Parameter 'read-only' expects 'on' or 'off'"},
        {"raw,node-name=y", "Parameter 'file' is missing"},
        {"raw,node-name=y,file=nope", "Cannot find device='nope' nor node-name='nope'"},
        {"raw,node-name=y,file=", "Cannot find device='' nor node-name=''"},
        {"raw,node-name=y,file=y", "Cannot find device='y' nor node-name='y'"},
        {"raw,node-name=y,file.driver=mem,file.node-name=y", "Duplicate nodes with node-name='y'"},
        {"raw,node-name=y,file.driver=raw,file.file=nope",
         "Cannot find device='nope' nor node-name='nope'"},
        {"mem,node-name=y,detect-zeroes=unmap",
         "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap"},
        {"mem,node-name=y,request-alignment=3",
         "Node 'y' has an alignment that is not supported (3, 1)"},
        {"mem,node-name=y,request-alignment=512,max-transfer=511",
         "Node 'y' transfers less than its alignment"},
    };
    (void)arg;
    test_open("mem,node-name=x");
    unsigned closes = memdisk_closes;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        const char *said = test_open_error(cases[i][0]);
        if (strcmp(said, cases[i][1]))
            fail_msg("%s: '%s' instead of '%s'", cases[i][0], said, cases[i][1]);
        assert_null(node_find("y"));
        assert_ptr_equal(node_list()->next, node_list()->prev); /* x alone */
    }
    assert_int_equal(memdisk_closes, closes + 2); /* the two with bad limits were open already */
    close_named("x");
    assert_true(list_empty(node_list()));
}

static void test_errors(void **state)
{
    (void)state;
    test_co_run(co_errors, NULL);
}

static void co_references(void *arg)
{
    (void)arg;
    memdisk_close_order[0] = 0;
    test_open("mem,node-name=base");
    test_open("mem,node-name=top,backing=base");
    test_open("mem,node-name=other,backing=base");
    struct node *base = node_find("base");
    assert_int_equal(base->refs, 3);
    assert_int_equal(node_find("top")->depth, 2);
    close_named("base"); /* still held by its parents */
    assert_string_equal(memdisk_close_order, "");
    close_named("top");
    assert_ptr_equal(node_find("base"), base);
    close_named("other");
    assert_string_equal(memdisk_close_order, "top other base ");
    assert_true(list_empty(node_list()));
}

static void test_references(void **state)
{
    (void)state;
    test_co_run(co_references, NULL);
}

static void co_inheritance(void *arg)
{
    (void)arg;
    struct node *n = test_open("mem,node-name=a,read-only=off,cache.direct=on,backing.driver=mem,"
                               "backing.node-name=b");
    struct node *b = n->backing->node;
    assert_ptr_equal(node_find("b"), b);
    assert_true(b->read_only && b->discard_unmap && b->cache_direct);
    assert_false(n->read_only || n->discard_unmap || b->monitor_owned);
    close_named("a");
    assert_null(node_find("b"));
    n = test_open("raw,node-name=a,read-only=on,file.driver=mem");
    assert_true(n->file->node->read_only);
    assert_memory_equal(n->file->node->name, "#block", 6);
    close_named("a");
    /* a read-only file makes raw read-only */
    n = test_open("raw,node-name=a,file.driver=mem,file.read-only=on");
    assert_true(n->read_only);
    assert_false(n->file->writable);
    close_named("a");
}

static void test_inheritance(void **state)
{
    (void)state;
    test_co_run(co_inheritance, NULL);
}

/* Every allocation of an open fails once; nothing stays behind. */
static void co_nth_alloc(void *arg)
{
    static const char text[] = "raw,node-name=a,file.driver=mem,file.request-alignment=512,"
                               "file.backing.driver=raw,file.backing.file.driver=mem";
    (void)arg;
    test_open("mem,node-name=warm-up"); /* the page of zeroes stays for good */
    close_named("warm-up");
    size_t pages = page_free_bytes();
    for (unsigned n = 1;; n++) {
        struct error err = {0};
        struct node *node = NULL;
        struct value *def = schema_parse_keyval(text, "driver", &err);
        fault_arm(FAULT_ALLOC, n, false);
        int r = co_node_open(def, true, true, &node, &err);
        bool fired = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0, false);
        value_free(def);
        assert_int_equal(!!r, fired);
        assert_int_equal(err.set, fired);
        if (!r)
            close_named("a");
        assert_true(list_empty(node_list()));
        assert_int_equal(page_free_bytes(), pages);
        if (!fired) {
            assert_true(n > 10);
            return;
        }
    }
}

static void test_nth_alloc(void **state)
{
    (void)state;
    test_co_run(co_nth_alloc, NULL);
}

/* ---- depth ---- */

static struct node *open_chain(unsigned raws, const char *bottom)
{
    char text[64];
    test_open(bottom);
    for (unsigned i = 1; i <= raws; i++) {
        snprintf(text, sizeof(text), "raw,node-name=n%u,file=n%u,discard=unmap", i, i - 1);
        test_open(text);
    }
    snprintf(text, sizeof(text), "n%u", raws);
    return node_find(text);
}

static void close_chain(unsigned raws)
{
    char name[16];
    for (unsigned i = 0; i <= raws; i++) { /* the top last: it takes all with it */
        snprintf(name, sizeof(name), "n%u", i);
        close_named(name);
    }
    assert_true(list_empty(node_list()));
}

static void co_deep(void *arg)
{
    uint8_t out[700], in[700];
    struct blk_status st;
    (void)arg;
    struct node *top = open_chain(500, "mem,node-name=n0,request-alignment=512,write-zeroes=on,"
                                       "discards=on,discard=unmap");
    struct origin *o = blk_calloc(sizeof(*o));
    assert_int_equal(origin_open(o, top, true, NULL), 0);
    for (unsigned i = 0; i < sizeof(out); i++)
        out[i] = (uint8_t)(i * 7);
    assert_int_equal(co_blk_pwrite(o->root, 333, out, sizeof(out), BLK_FUA), 0);
    assert_int_equal(co_blk_pread(o->root, 333, in, sizeof(in)), 0);
    assert_memory_equal(in, out, sizeof(in));
    assert_int_equal(co_blk_pwrite_zeroes(o->root, 400, 600, BLK_MAY_UNMAP), 0);
    assert_int_equal(co_blk_pdiscard(o->root, 0, 4096), 0);
    assert_int_equal(co_blk_flush(o->root), 0);
    assert_int_equal(co_blk_status(o->root, 333, 100, &st), 0);
    assert_int_equal(co_blk_status_above(o->root, 333, 100, &st), 0);
    struct memdisk *m = memdisk_of(node_find("n0"));
    assert_int_equal(m->count[MEM_DISCARD], 1);
    assert_int_equal(m->count[MEM_FLUSH], 2);
    co_drain_begin(node_find("n0"));
    assert_true(o->gate[0].closed);
    node_resized(node_find("n0"), 2 << 20);
    drain_end(node_find("n0"));
    assert_false(o->gate[0].closed);
    assert_int_equal(top->size, 2 << 20);
    node_resized(node_find("n0"), 1 << 20); /* the test disk has no more memory */
    co_origin_close(o);
    blk_free(o);
    close_chain(500);
}

static void test_deep(void **state)
{
    (void)state;
    test_co_run(co_deep, NULL);
}

static void co_too_deep(void *arg)
{
    (void)arg;
    open_chain(BLK_MAX_DEPTH - 1, "mem,node-name=n0");
    assert_string_equal(test_open_error("raw,node-name=x,file=n511"),
                        "Node 'x' would be more than 512 nodes deep");
    close_chain(BLK_MAX_DEPTH - 1);
}

static void test_too_deep(void **state)
{
    (void)state;
    test_co_run(co_too_deep, NULL);
}

/* Nested inline definitions, opened and closed, and too many of them. */
static int co_open_nested(unsigned levels, struct error *err)
{
    struct value *def = value_dict();
    struct node *n;
    value_dict_set(def, "driver", value_str("mem"));
    while (levels--) {
        struct value *outer = value_dict();
        value_dict_set(outer, "driver", value_str("raw"));
        if (!levels)
            value_dict_set(outer, "node-name", value_str("top"));
        value_dict_set(outer, "file", def);
        def = outer;
    }
    int r = co_node_open(def, false, true, &n, err);
    value_free(def);
    return r;
}

static void co_nested(void *arg)
{
    struct error err = {0};
    (void)arg;
    assert_int_equal(co_open_nested(BLK_MAX_DEPTH - 1, &err), 0);
    close_named("top");
    assert_int_equal(co_open_nested(BLK_MAX_DEPTH, &err), SR_EINVAL);
    assert_string_equal(err.msg, "Definition is nested too deeply");
    assert_true(list_empty(node_list()));
}

static void test_nested(void **state)
{
    (void)state;
    test_co_run(co_nested, NULL);
}

/* ---- drain ---- */

struct client {
    struct co_start start;
    struct origin *o;
    unsigned turns; /* requests completed */
    bool stop, done;
};

static void co_client(void *arg)
{
    struct client *c = arg;
    uint8_t buf[512] = {0};
    while (!c->stop) {
        co_origin_enter(c->o);
        assert_int_equal(co_blk_pwrite(c->o->root, 0, buf, 512, 0), 0);
        c->turns++;
        origin_leave(c->o);
        co_reschedule();
    }
    c->done = true;
}

static void turns(void)
{
    for (unsigned i = 0; i < 50; i++)
        co_reschedule();
}

static void co_drain(void *arg)
{
    static struct client a[5], b;
    test_open("mem,node-name=base,jitter=3,read-only=off");
    struct test_root t = test_root_open(test_open("raw,node-name=top,file=base"));
    struct test_root other = test_root_open(test_open("mem,node-name=other,jitter=3"));
    struct memdisk *m = memdisk_of(node_find("base"));
    (void)arg;
    for (unsigned i = 0; i < ARRAY_LEN(a); i++) {
        a[i] = (struct client){.o = t.origin};
        co_start(&a[i].start, co_client, &a[i]);
    }
    b = (struct client){.o = other.origin};
    co_start(&b.start, co_client, &b);
    turns();
    for (unsigned round = 0; round < 20; round++) {
        co_drain_begin(node_find("base"));
        assert_int_equal(m->inflight, 0);
        uint64_t writes = m->count[MEM_WRITE];
        unsigned others = b.turns;
        co_drain_begin(t.n); /* nested, from above */
        co_drain_begin(node_find("base"));
        turns();
        drain_end(node_find("base"));
        drain_end(node_find("base"));
        turns();
        assert_true(t.origin->gate[0].closed); /* top's own */
        assert_int_equal(m->count[MEM_WRITE], writes);
        assert_true(b.turns > others); /* the other tree goes on */
        drain_end(t.n);
        assert_false(t.origin->gate[0].closed);
        turns();
        assert_true(m->count[MEM_WRITE] > writes);
    }
    for (unsigned i = 0; i < ARRAY_LEN(a); i++)
        a[i].stop = true;
    b.stop = true;
    turns();
    for (unsigned i = 0; i < ARRAY_LEN(a); i++)
        assert_true(a[i].done && a[i].turns > 20);
    test_root_close(&t);
    test_root_close(&other);
    close_named("base");
}

static void test_drain(void **state)
{
    (void)state;
    test_co_run(co_drain, NULL);
}

/* Edges and origins made and cut while the node below is quiesced take their share along. */
static void co_drain_edges(void *arg)
{
    (void)arg;
    struct node *base = test_open("mem,node-name=base");
    co_drain_begin(base);
    struct test_root t = test_root_open(test_open("raw,node-name=top,file=base"));
    assert_int_equal(t.n->quiesced, 1);
    assert_true(t.origin->gate[0].closed);
    assert_false(origin_try_enter(t.origin));
    drain_end(base);
    assert_int_equal(t.n->quiesced, 0);
    assert_true(origin_try_enter(t.origin));
    origin_leave(t.origin);
    co_drain_begin(base);
    test_root_close(&t); /* under drain */
    drain_end(base);
    assert_int_equal(base->quiesced, 0);
    close_named("base");
}

static void test_drain_edges(void **state)
{
    (void)state;
    test_co_run(co_drain_edges, NULL);
}

/* ---- resize ---- */

static unsigned told;
static void resized(struct origin *o)
{
    told++;
    assert_int_equal(o->root->node->size, 3000 - 512);
}

static void co_resize(void *arg)
{
    (void)arg;
    struct node *base = test_open("mem,node-name=base,size=4096");
    struct test_root t = test_root_open(test_open("raw,node-name=r1,file=base,offset=512"));
    struct node *fixed = test_open("raw,node-name=r2,file=base,size=1024");
    t.origin->resized = resized;
    node_resized(base, 3000);
    assert_int_equal(told, 1);
    assert_int_equal(t.n->size, 3000 - 512);
    assert_int_equal(fixed->size, 1024);
    test_root_close(&t);
    close_named("r2");
    close_named("base");
}

static void test_resize(void **state)
{
    (void)state;
    test_co_run(co_resize, NULL);
}

/* ---- the end ---- */

static void co_stop(void *arg)
{
    (void)arg;
    memdisk_close_order[0] = 0;
    test_open("mem,node-name=base");
    test_open("mem,node-name=top,backing=base");
    registry_for_each (stop_hook, h)
        if (!strcmp((*h)->name, "nodes"))
            (*h)->co_run(board_clock_ns() + 5000000000ull);
    assert_string_equal(memdisk_close_order, "top base ");
    assert_true(list_empty(node_list()));
}

static void test_stop(void **state)
{
    (void)state;
    test_co_run(co_stop, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),      cmocka_unit_test(test_references),
        cmocka_unit_test(test_inheritance), cmocka_unit_test(test_nth_alloc),
        cmocka_unit_test(test_deep),        cmocka_unit_test(test_too_deep),
        cmocka_unit_test(test_nested),      cmocka_unit_test(test_drain),
        cmocka_unit_test(test_drain_edges), cmocka_unit_test(test_resize),
        cmocka_unit_test(test_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
