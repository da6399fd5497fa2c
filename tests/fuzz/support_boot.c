/* SPDX-License-Identifier: BSD-2-Clause */
/* See support_boot.h. */
#include "tests/fuzz/support_boot.h"

#define TURNS 2000000

void fuzz_boot(unsigned stacks)
{
    page_init();
    loop_init(1);
    if (pools_init(0))
        panic("pools do not fit");
    co_init(stacks, 2);
}

void fuzz_run(co_fn *co, void *arg, bool *done)
{
    static struct co_start start;
    *done = false;
    co_start(&start, co, arg);
    for (unsigned i = 0; !*done; i++) {
        if (i > TURNS)
            panic("it does not end");
        loop_turn();
    }
    loop_turn();
}
