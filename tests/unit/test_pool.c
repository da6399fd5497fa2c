/* SPDX-License-Identifier: BSD-2-Clause */
/* Pools and credits: the accounts, who may take, who waits and who is served. */
#include "tests/unit/support.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernel/board.h"
#include "kernel/error.h"
#include "kernel/loop.h"
#include "kernel/page.h"
#include "kernel/pool.h"

#define TOTAL 16u

struct thing {
    uint64_t a[5];
};
static struct pool things = POOL("test-thing", POOL_RANK_REQUEST, sizeof(struct thing),
                                 .min = TOTAL, .max = 64, .weight = 1);
REGISTER(pool, things);

struct parcel {
    void *first_word;
    char *box;
    unsigned made;
};
static void made(struct pool *p, void *obj, void *payload)
{
    *(struct parcel *)obj = (struct parcel){.box = payload, .made = 1};
    (void)p;
}
static struct pool parcels = POOL("test-parcel", POOL_RANK_BUFFER, sizeof(struct parcel), .min = 5,
                                  .max = 5, .payload = 700, .payload_align = 512, .made = made);
REGISTER(pool, parcels);

static char trail[64];
static void trail_is(const char *want)
{
    assert_string_equal(trail, want);
    trail[0] = 0;
}

static int setup(void **state)
{
    (void)state;
    test_start();
    return 0;
}

static void all_back(void)
{
    assert_int_equal(things.free, TOTAL);
    assert_int_equal(things.reserved, 0);
    assert_true(list_empty(&things.waiting));
}

/* ---- objects ---- */

static void test_objects(void **state)
{
    (void)state;
    void *o[TOTAL];
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < TOTAL; i++) {
            o[i] = pool_try_get(&things, NULL);
            assert_non_null(o[i]);
            assert_true(is_aligned((uintptr_t)o[i], CACHE_LINE));
            memset(o[i], (int)i, sizeof(struct thing));
        }
        assert_null(pool_try_get(&things, NULL));
        for (unsigned i = 0; i < TOTAL; i++) {
            const unsigned char *p = o[i];
            assert_true(p[0] == i && p[sizeof(struct thing) - 1] == i); /* they do not overlap */
            pool_put(&things, NULL, o[i]);
        }
    }
    assert_int_equal(things.low_water, 0);
    all_back();
}

static void test_payload(void **state)
{
    (void)state;
    struct parcel *p[5];
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < ARRAY_LEN(p); i++) {
            p[i] = pool_try_get(&parcels, NULL);
            assert_true(is_aligned((uintptr_t)p[i]->box, 512));
            assert_int_equal(p[i]->made, 1); /* made once, and kept between uses */
            memset(p[i]->box, (int)i, 700);
        }
        for (unsigned i = 0; i < ARRAY_LEN(p); i++) {
            assert_true(p[i]->box[0] == (char)i && p[i]->box[699] == (char)i);
            pool_put(&parcels, NULL, p[i]);
        }
    }
}

#ifdef SR_SANITIZED
static void use_after_put(void *arg)
{
    (void)arg;
    volatile struct thing *t = pool_try_get(&things, NULL);
    pool_put(&things, NULL, (void *)(uintptr_t)t);
    t->a[3] = 1;
}

static void test_use_after_put(void **state)
{
    (void)state;
#ifndef __SANITIZE_THREAD__
    assert_int_not_equal(test_in_child(use_after_put, NULL, NULL, 0), 0);
#else
    (void)use_after_put;
#endif
}
#endif

/* ---- credits ---- */

static unsigned take_all(struct credit *c, void **o)
{
    unsigned n = 0;
    while ((o[n] = pool_try_get(&things, c)))
        n++;
    return n;
}

static void put_all(struct credit *c, void **o, unsigned n)
{
    while (n)
        pool_put(&things, c, o[--n]);
}

static void test_lone_holder_takes_half(void **state)
{
    (void)state;
    struct credit c;
    void *o[TOTAL + 1];
    assert_int_equal(credit_open(&c, &things, 0), 0);
    unsigned n = take_all(&c, o);
    assert_int_equal(n, TOTAL / 2);
    put_all(&c, o, n);
    credit_close(&c);
    all_back();
}

static void test_guarantees(void **state)
{
    (void)state;
    struct credit a, b, c;
    void *oa[TOTAL + 1], *ob[TOTAL + 1], *on[TOTAL + 1];
    assert_int_equal(credit_open(&a, &things, 4), 0);
    assert_int_equal(credit_open(&b, &things, 4), 0);
    assert_int_equal(credit_open(&c, &things, 9), SR_ENOMEM);
    assert_int_equal(things.reserved, 8);

    unsigned n = 0; /* whoever has no credit gets what is not promised, and not more */
    while ((on[n] = pool_try_get(&things, NULL)))
        n++;
    assert_int_equal(n, TOTAL - 8);
    assert_int_equal(credit_open(&c, &things, 1), SR_ENOMEM);

    unsigned na = take_all(&a, oa);
    assert_int_equal(na, 4); /* its own are there, but none above them */
    assert_int_equal(things.reserved, 4);
    pool_put(&things, NULL, on[--n]);
    assert_null(pool_try_get(&things, &a)); /* one is free, but a holds four */
    unsigned nb = take_all(&b, ob);
    assert_int_equal(nb, 4);
    assert_int_equal(things.reserved, 0);
    assert_int_equal(things.free, 1);
    on[n++] = pool_try_get(&things, NULL);
    assert_non_null(on[n - 1]);

    put_all(&a, oa, na); /* promised again */
    assert_int_equal(things.reserved, 4);
    assert_null(pool_try_get(&things, &b));
    assert_null(pool_try_get(&things, NULL));
    put_all(&b, ob, nb);
    while (n)
        pool_put(&things, NULL, on[--n]);
    credit_close(&a);
    credit_close(&b);
    all_back();
}

static void close_while_held(void *arg)
{
    struct credit c;
    (void)arg;
    credit_open(&c, &things, 1);
    pool_try_get(&things, &c);
    credit_close(&c);
}

static void put_too_often(void *arg)
{
    struct credit c;
    (void)arg;
    credit_open(&c, &things, 1);
    void *o = pool_try_get(&things, &c);
    pool_put(&things, &c, o);
    pool_put(&things, &c, o);
}

static void get_from_the_wrong_pool(void *arg)
{
    struct credit c;
    (void)arg;
    credit_open(&c, &parcels, 1);
    pool_try_get(&things, &c);
}

static void test_misuse_panics(void **state)
{
    (void)state;
    test_expect_panic(close_while_held, NULL, "c->held == 0");
    test_expect_panic(put_too_often, NULL, "c->held > 0");
    test_expect_panic(get_from_the_wrong_pool, NULL, "c->pool == p");
}

/* ---- waiting ---- */

struct waiting {
    struct co_start start;
    struct credit *credit;
    char name;
    void *obj;
};

static void co_waits(void *arg)
{
    struct waiting *w = arg;
    w->obj = co_pool_get(&things, w->credit);
    size_t n = strlen(trail);
    trail[n] = w->name;
    trail[n + 1] = 0;
}

static void begin(struct waiting *w, char name, struct credit *c)
{
    *w = (struct waiting){.name = name, .credit = c};
    co_start_now(&w->start, co_waits, w);
}

static void run_others(void)
{
    co_reschedule();
    co_reschedule();
}

static void co_fifo(void *arg)
{
    struct waiting w[3];
    void *o[TOTAL + 1];
    (void)arg;
    for (unsigned i = 0; i < TOTAL; i++)
        o[i] = pool_try_get(&things, NULL);
    begin(&w[0], 'a', NULL);
    begin(&w[1], 'b', NULL);
    begin(&w[2], 'c', NULL);
    run_others();
    trail_is("");
    pool_put(&things, NULL, o[0]);
    assert_null(pool_try_get(&things, NULL)); /* handed over: a newcomer cannot take it */
    run_others();
    trail_is("a");
    pool_put(&things, NULL, o[1]);
    pool_put(&things, NULL, o[2]);
    run_others();
    trail_is("bc");
    for (unsigned i = 0; i < 3; i++)
        pool_put(&things, NULL, w[i].obj);
    put_all(NULL, o + 3, TOTAL - 3);
    all_back();
}

/* The head of the line holds its share and may not take; one behind it may, and so may one that
 * falls below its guarantee. */
static void co_head_does_not_block(void *arg)
{
    struct credit greedy, modest;
    struct waiting wg, wm;
    void *og[TOTAL + 1], *om[2], *on[TOTAL];
    (void)arg;
    assert_int_equal(credit_open(&greedy, &things, 0), 0);
    assert_int_equal(credit_open(&modest, &things, 2), 0);
    unsigned ng = take_all(&greedy, og), nn = 0; /* 7 of the 14 that are not promised */
    assert_int_equal(ng, (TOTAL - 2) / 2);
    while ((on[nn] = pool_try_get(&things, NULL)))
        nn++;
    om[0] = pool_try_get(&things, &modest);
    om[1] = pool_try_get(&things, &modest);
    assert_non_null(om[1]);
    assert_int_equal(things.free, 0);

    begin(&wg, 'g', &greedy);
    begin(&wm, 'm', &modest);
    /* Two come free: greedy is first in line but holds seven; modest holds two and would need
     * three. */
    pool_put(&things, NULL, on[--nn]);
    pool_put(&things, NULL, on[--nn]);
    run_others();
    trail_is("");
    /* Modest puts one back: below its guarantee, so its waiter is served at once. */
    pool_put(&things, &modest, om[1]);
    run_others();
    trail_is("m");
    assert_int_equal(modest.held, 2);
    /* Greedy gives back until it holds less than is free: then it is its turn. */
    assert_int_equal(things.free, 2);
    pool_put(&things, &greedy, og[--ng]); /* holds 6, 3 free */
    pool_put(&things, &greedy, og[--ng]); /* holds 5, 4 free */
    run_others();
    trail_is("");
    pool_put(&things, &greedy, og[--ng]); /* holds 4, 5 free: takes one */
    run_others();
    trail_is("g");

    pool_put(&things, &greedy, wg.obj);
    pool_put(&things, &modest, wm.obj);
    pool_put(&things, &modest, om[0]);
    put_all(&greedy, og, ng);
    put_all(NULL, on, nn);
    credit_close(&greedy);
    credit_close(&modest);
    all_back();
}

/* Holders take turns, whatever number of waiters each has. */
static void co_turns(void *arg)
{
    struct credit a, b;
    struct waiting w[6];
    void *o[TOTAL];
    (void)arg;
    credit_open(&a, &things, 0);
    credit_open(&b, &things, 0);
    for (unsigned i = 0; i < TOTAL; i++)
        o[i] = pool_try_get(&things, NULL);
    for (unsigned i = 0; i < 4; i++)
        begin(&w[i], (char)('1' + i), &a);
    begin(&w[4], 'x', &b);
    begin(&w[5], 'y', &b);
    for (unsigned i = 0; i < TOTAL; i++)
        pool_put(&things, NULL, o[i]);
    run_others();
    trail_is("1x2y34");
    for (unsigned i = 0; i < 6; i++)
        pool_put(&things, i < 4 ? &a : &b, w[i].obj);
    credit_close(&a);
    credit_close(&b);
    all_back();
}

static void co_close_serves(void *arg)
{
    struct credit idle;
    struct waiting w;
    void *o[TOTAL];
    unsigned n = 0;
    (void)arg;
    credit_open(&idle, &things, 3);
    while ((o[n] = pool_try_get(&things, NULL)))
        n++;
    begin(&w, 'w', NULL);
    run_others();
    trail_is("");
    credit_close(&idle); /* its promise goes to whoever waits */
    run_others();
    trail_is("w");
    pool_put(&things, NULL, w.obj);
    put_all(NULL, o, n);
    all_back();
}

static void test_waiting(void **state)
{
    (void)state;
    test_co_run(co_fifo, NULL);
    test_co_run(co_head_does_not_block, NULL);
    test_co_run(co_turns, NULL);
    test_co_run(co_close_serves, NULL);
}

/* ---- everybody at random: the accounts stay right, and everybody comes to an end ---- */

#define CLIENTS 5u
#define WORKERS 30u
#define ROUNDS  300u

static struct credit clients[CLIENTS];
static unsigned finished;

static void check_accounts(void)
{
    unsigned held = 0, owed = 0;
    for (unsigned i = 0; i < CLIENTS; i++) {
        const struct credit *c = &clients[i];
        held += c->held;
        owed += c->guaranteed > c->held ? c->guaranteed - c->held : 0;
    }
    assert_int_equal(held + things.anyone.held + things.free, TOTAL);
    assert_int_equal(owed, things.reserved);
    assert_true(things.free >= things.reserved);
}

static void co_worker(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;
    struct credit *c = seed % (CLIENTS + 1) < CLIENTS ? &clients[seed % (CLIENTS + 1)] : NULL;
    for (unsigned i = 0; i < ROUNDS; i++) {
        void *o = co_pool_get(&things, c);
        check_accounts();
        for (int turns = rand_r(&seed) % 4; turns > 0; turns--)
            co_reschedule();
        pool_put(&things, c, o);
        check_accounts();
    }
    finished++;
}

static void co_random(void *arg)
{
    static struct co_start s[WORKERS];
    (void)arg;
    finished = 0;
    for (unsigned i = 0; i < CLIENTS; i++)
        assert_int_equal(credit_open(&clients[i], &things, i), 0);
    for (unsigned i = 0; i < WORKERS; i++)
        co_start(&s[i], co_worker, (void *)(uintptr_t)i);
    while (finished < WORKERS)
        co_reschedule();
    for (unsigned i = 0; i < CLIENTS; i++)
        credit_close(&clients[i]);
    all_back();
}

static void test_random(void **state)
{
    (void)state;
    test_co_run(co_random, NULL);
}

/* ---- sizes ---- */

static void init_with(void *arg)
{
    size_t budget = *(size_t *)arg, before = page_free_bytes();
    if (pools_init(budget))
        _exit(9);
    size_t used = before - page_free_bytes();
    bool fits = used <= MAX(budget, pools_min_bytes()) + ((size_t)64 << 10);
    _exit(!fits || things.total < things.min || things.total > things.max ? 1
          : things.total == things.max                                    ? 2
                                                                          : 0);
}

/* In children, because memory is shared out once. */
static void test_budgets(void **state)
{
    (void)state;
    size_t min = pools_min_bytes(), none = 0, little = min - 1, more = min + (16 << 20),
           plenty = (size_t)160 << 20, absurd = (size_t)1 << 40;
    assert_int_equal(test_in_child(init_with, &none, NULL, 0), 0);
    assert_int_equal(test_in_child(init_with, &little, NULL, 0), 9);
    assert_int_equal(test_in_child(init_with, &min, NULL, 0), 0);
    assert_int_not_equal(test_in_child(init_with, &more, NULL, 0), 9);
    assert_int_equal(test_in_child(init_with, &plenty, NULL, 0), 2);
    /* A budget that is not there in one piece: pools make do with less. */
    assert_int_not_equal(test_in_child(init_with, &absurd, NULL, 0), 1);
}

static void print_pools(void *arg)
{
    (void)arg;
    pools_print();
}

static void test_print(void **state)
{
    (void)state;
    char said[16384];
    assert_int_equal(test_in_child(print_pools, NULL, said, sizeof(said)), 0);
    const char *a = strstr(said, "test-parcel: 5 of "),
               *b = strstr(said, "test-thing: 16 of 64 bytes");
    assert_true(a && b && a < b);
    assert_non_null(strstr(said, "pool: sum "));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_objects),
        cmocka_unit_test(test_payload),
#ifdef SR_SANITIZED
        cmocka_unit_test(test_use_after_put),
#endif
        cmocka_unit_test(test_lone_holder_takes_half),
        cmocka_unit_test(test_guarantees),
        cmocka_unit_test(test_misuse_panics),
        cmocka_unit_test(test_waiting),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_print),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
