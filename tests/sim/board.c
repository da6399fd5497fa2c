/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The simulated board: clock, memory, console, and the scheduler's choice. See sim.h.
 */
#include "tests/sim/sim.h"

#include "kernel/board.h"
#include "kernel/co_impl.h"
#include "kernel/command.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM_BYTES     (256u << 20) /* touched when used */
#define ROOM_BYTES    (32u << 20)
#define STACKS        96
#define BIG_STACKS    4
#define CONSOLE_BYTES 16384
#define MANY_PICKS    20000000 /* without a pause */

static struct {
    struct rng rng;
    bool frantic;
    uint64_t now;
    unsigned picks; /* since time has jumped */
    char console[CONSOLE_BYTES];
    size_t said;
    bool done;
    co_fn *fn;
    void *arg;
    size_t free_pages; /* at the mark */
    unsigned free_stacks;
} sim;

static char own_name[SIM_NAME_MAX];
char *sim_current = own_name;
bool sim_verbose;

struct rng *sim_rng(void)
{
    return &sim.rng;
}

void sim_reseed(uint64_t seed, bool frantic)
{
    sim.rng = rng_seeded(seed, 0x7363686564);
    sim.frantic = frantic;
    sim.said = 0;
    sim.picks = 0;
}

static NORETURN void die(const char *what)
{
    fprintf(stderr, "%s: %s\n%.*s", sim_current, what, (int)sim.said, sim.console);
    _exit(5);
}

/* ---- the scheduler ---- */

struct qlink *sim_pick(struct queue *ready)
{
    struct qlink **at = &ready->first;
    unsigned count = 0;
    if (++sim.picks > MANY_PICKS)
        die("livelock: coroutines keep each other busy and nobody waits");
    if (!sim.frantic)
        return queue_pop(ready);
    for (const struct qlink *n = *at; n; n = n->next)
        count++;
    for (unsigned skip = rng_below(&sim.rng, count); skip; skip--)
        at = &(*at)->next;
    struct qlink *chosen = *at;
    *at = chosen->next;
    if (!*at)
        ready->tail = at;
    return chosen;
}

/* ---- clock ---- */

uint64_t board_clock_ns(void)
{
    if (sim.frantic && rng_one_in(&sim.rng, 8))
        sim.now += rng_below(&sim.rng, 4000);
    return sim.now;
}

void board_idle(uint64_t deadline_ns)
{
    if (deadline_ns == UINT64_MAX) {
        trace_dump(32);
        die("deadlock: no coroutine is ready and no timer is set");
    }
    sim.now = MAX(sim.now, deadline_ns);
    sim.picks = 0;
}

void board_turn(void)
{
}

void board_wake(unsigned loop)
{
    (void)loop;
}

/* ---- console, end ---- */

void board_console_write(const char *text, size_t len)
{
    if (sim_verbose)
        fwrite(text, 1, len, stderr);
    len = MIN(len, sizeof(sim.console) - 1 - sim.said);
    memcpy(sim.console + sim.said, text, len);
    sim.said += len;
    sim.console[sim.said] = 0;
}

const char *sim_console(void)
{
    sim.console[sim.said] = 0;
    return sim.console;
}

NORETURN void board_exit(enum board_exit how)
{
    (void)how;
    die("panic");
}

/* Nobody attacks, and a run is the same each time. */
bool board_entropy(void *buf, size_t len)
{
    memset(buf, 0x5a, len);
    return false;
}

void board_backtrace(void)
{
}

void system_unclean(void)
{
}

void event_emit(const struct event_def *e, const void *data)
{
    (void)data;
    log_line("event", "%s", e->name);
}

/* ---- memory ---- */

unsigned board_memory(struct mem_range *ranges, unsigned max)
{
    void *p = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || !max)
        die("no memory");
    ranges[0] = (struct mem_range){.base = p, .len = RAM_BYTES};
    return 1;
}

void board_guard_page(void *page, bool guard)
{
    if (mprotect(page, PAGE_SIZE, guard ? PROT_NONE : PROT_READ | PROT_WRITE))
        die("mprotect failed");
}

/* ---- running ---- */

void sim_boot(bool roomy)
{
    page_init();
    loop_init(1);
    if (pools_init(roomy ? pools_min_bytes() + ROOM_BYTES : 0))
        die("pools do not fit");
    co_init(STACKS, BIG_STACKS);
}

static void on_big_stack(void *arg)
{
    (void)arg;
    co_on_big_stack(sim.fn, sim.arg);
    sim.done = true;
    loop_stop();
}

void sim_run(co_fn *fn, void *arg)
{
    static struct co_start start;
    sim.fn = fn;
    sim.arg = arg;
    sim.done = false;
    co_start(&start, on_big_stack, NULL);
    while (!sim.done)
        loop_run();
}

/* Workspaces of compressed clusters stay where they were used first. */
static const char *pools_leak(void)
{
    registry_for_each (pool, p)
        if ((*p)->free != (*p)->total && strcmp((*p)->name, "qcow2-cluster"))
            return "a pool object was not put back";
    return NULL;
}

const char *sim_leaks(bool mark)
{
    if (mark) {
        sim.free_pages = page_free_bytes();
        sim.free_stacks = co_stacks_free();
    }
    if (page_free_bytes() != sim.free_pages)
        return "pages were not freed";
    if (co_stacks_free() != sim.free_stacks)
        return "a coroutine is left";
    return pools_leak();
}
