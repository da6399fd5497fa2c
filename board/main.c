/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The life of a storage domain, in the order of the console lines that tell it:
 *
 *     strongroom: VERSION ...    memory is shared out, loop 0 runs, this coroutine is the first
 *     disk N: ... net N: ...     the board offers devices to drivers
 *     error: --OPT ...           options in their order; the first one that fails ends everything (status 3)
 *     ready: N exports           every listener accepts, addresses are set
 *     off: clean                 quit: no new requests, those in flight end (10 s), nodes flushed and closed
 *
 * Memory is split once. Pools get what is left after the C library's heap (control path) and a
 * share for what drivers and formats take from the page allocator at open: rings, receive buffers,
 * metadata caches.
 */
#include "board/main.h"

#include "blk/blk.h"
#include "control/control.h"
#include "kernel/command.h"
#include "kernel/kernel.h"
#include "kernel/version.h"

#define QUIT_TIMEOUT_NS  (10ull * 1000000000) /* for requests in flight, and again for closing */
#define BUTTON_PERIOD_NS (250ull * 1000000)

static struct {
    co_configure_fn *co_configure;
    void *ctx;
    struct co_start start;
    struct co *waiting; /* the main coroutine, once it waits for quit */
    bool quit, unclean;
} life;

bool system_quitting(void)
{
    return life.quit;
}

void system_unclean(void)
{
    life.unclean = true;
}

void system_quit(void)
{
    life.quit = true;
    if (life.waiting)
        co_wake(life.waiting);
}

/* ---- Start and stop hooks, sorted ------------------------------------------------------------ */

#define MAX_HOOKS 32

#define SORTED_HOOKS(kind)                                              \
    static unsigned sorted_##kind##s(const struct kind *out[MAX_HOOKS]) \
    {                                                                   \
        unsigned n = 0;                                                 \
        registry_for_each (kind, it) {                                  \
            ASSERT(n < MAX_HOOKS);                                      \
            unsigned i = n++;                                           \
            for (; i && (out[i - 1]->order > (*it)->order ||            \
                         (out[i - 1]->order == (*it)->order &&          \
                          strcmp(out[i - 1]->name, (*it)->name) > 0));  \
                 i--)                                                   \
                out[i] = out[i - 1];                                    \
            out[i] = *it;                                               \
        }                                                               \
        return n;                                                       \
    }
SORTED_HOOKS(start_hook)
SORTED_HOOKS(stop_hook)

static int co_run_start_hooks(void)
{
    const struct start_hook *hooks[MAX_HOOKS];
    unsigned n = sorted_start_hooks(hooks);
    for (unsigned i = 0; i < n; i++) {
        struct error err = {0};
        int rc = hooks[i]->co_run(&err);
        if (rc) {
            log_plain("error: %s: %s", hooks[i]->name, err.set ? err.msg : sr_strerror(rc));
            return rc;
        }
    }
    return 0;
}

static void co_run_stop_hooks(void)
{
    const struct stop_hook *hooks[MAX_HOOKS];
    unsigned n = sorted_stop_hooks(hooks);
    uint64_t deadline = board_clock_ns() + QUIT_TIMEOUT_NS;
    for (unsigned i = 0; i < n; i++) {
        if (hooks[i]->order > STOP_EXPORTS)
            deadline = board_clock_ns() + QUIT_TIMEOUT_NS;
        hooks[i]->co_run(deadline);
    }
}

/* ---- The main coroutine ---------------------------------------------------------------------- */

static unsigned count_exports(void)
{
    unsigned n = 0;
    list_for_each (e, export_list(), struct export, link)
        n++;
    return n;
}

static int co_configure_all(void)
{
    bool configured = false;
    int rc = life.co_configure(life.ctx, &configured);
    if (!rc && !configured)
        rc = co_control_default_config();
    return rc ? rc : co_run_start_hooks();
}

/* Asking the button is a device access: four times a second, instead of at each turn of the
 * loop. */
static void co_wait_for_quit(void)
{
    life.waiting = co_self();
    while (!life.quit) {
        if (!board_has_power_button()) {
            co_yield ();
            continue;
        }
        co_sleep_ns(BUTTON_PERIOD_NS);
        if (board_power_button())
            life.quit = true;
    }
    life.waiting = NULL;
}

static void co_main(void *arg)
{
    (void)arg;
    co_board_probe();
    if (co_configure_all()) {
        life.quit = true;
        co_run_stop_hooks();
        board_exit(BOARD_EXIT_CONFIG);
    }
    log_plain("ready: %u exports", count_exports());
    co_wait_for_quit();
    co_run_stop_hooks();
    log_plain(life.unclean ? "off: not clean" : "off: clean");
    board_exit(life.unclean ? BOARD_EXIT_PANIC : BOARD_EXIT_CLEAN);
}

void strongroom_memory(void)
{
    page_init();
    loop_init(1);
    /* An eighth for the control path's heap, one for stacks, a third of the rest for what opens
     * later, what remains for the data path; less for what opens when that would not be enough. */
    size_t ram = page_free_bytes();
    size_t heap = MIN(MAX(ram / 8, (size_t)1 << 20), (size_t)32 << 20);
    heap_init(heap);
    size_t stacks = MIN(MAX(ram / 8 / (co_stack_size + PAGE_SIZE), (size_t)64), (size_t)1024);
    co_init((unsigned)stacks, ram < (size_t)64 << 20 ? 2 : 4);
    size_t left = page_free_bytes(), budget = MAX(left - left / 3, pools_min_bytes());
    if (pools_init(MIN(budget, (size_t)192 << 20)))
        panic("%zu KiB of memory are too little: pools need %zu KiB", ram >> 10,
              pools_min_bytes() >> 10);
}

NORETURN void strongroom_run(co_configure_fn *co_configure, void *ctx)
{
    strongroom_memory();
    log_plain("strongroom: %s %s %s, %llu MiB, %u cores", STRONGROOM_VERSION, board_arch(),
              board_name(), (unsigned long long)(board_ram_bytes() >> 20), board_cores());
    log_line("memory", "pools %zu KiB (at least %zu), %u stacks, %zu KiB free", pools_bytes() >> 10,
             pools_min_bytes() >> 10, co_stacks_free(), page_free_bytes() >> 10);
    life.co_configure = co_configure;
    life.ctx = ctx;
    co_start(&life.start, co_main, NULL);
    loop_run();
    panic("the loop ended");
}
