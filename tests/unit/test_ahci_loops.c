/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A SATA disk used from two loops, with errors and resets meanwhile. Meant for TSan.
 */
#include "tests/unit/support_ahci.h"
#include "tests/unit/support_loops.h"

#include <string.h>

#define CLIENTS 8u
#define ROUNDS  40u

static struct client {
    struct co_start start;
    unsigned loop, id;
    bool done; /* loop 0's */
} clients[CLIENTS];

/* What was in flight at two resets has failed, and is asked for again. */
static void co_transfer(struct client *c, uint8_t *buf, bool write)
{
    struct seg seg;
    uint64_t off = (uint64_t)c->id * 4096;
    int rc;
    do {
        struct iov v = iov_one(&seg, buf, 4096);
        rc = write ? root.n->drv->co_pwritev(root.n, off, v, 0)
                   : root.n->drv->co_preadv(root.n, off, v, 0);
    } while (rc == SR_EIO);
    assert_int_equal(rc, 0);
    assert_int_equal(loop_id(), c->loop);
}

static void co_client(void *arg)
{
    struct client *c = arg;
    uint8_t buf[4096], back[4096];
    co_hop(c->loop);
    for (unsigned i = 0; i < ROUNDS; i++) {
        memset(buf, (int)(i + c->id), sizeof(buf));
        co_transfer(c, buf, true);
        while (root.n->drv->co_flush(root.n))
            ;
        co_transfer(c, back, false);
        assert_memory_equal(buf, back, sizeof(buf));
    }
    co_hop(0);
    c->done = true;
}

static void co_body(void *arg)
{
    (void)arg;
    sata_prepare(512);
    co_sata_open("");
    for (unsigned i = 0; i < CLIENTS; i++) {
        clients[i] = (struct client){.loop = i % 2, .id = i};
        co_start(&clients[i].start, co_client, &clients[i]);
    }
    for (unsigned i = 0; i < CLIENTS; i++)
        while (!clients[i].done) {
            co_sleep_ns(2000000);
            ahci_model_raise(&hba, 0, PIS_IFS); /* a reset, again and again */
        }
    co_sata_shut();
    loop_stop();
}

static void test_two_loops(void **state)
{
    struct co_start s;
    (void)state;
    co_start(&s, co_body, NULL);
    loop_run();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_loops),
    };
    return cmocka_run_group_tests(tests, two_loops_start, two_loops_stop);
}
