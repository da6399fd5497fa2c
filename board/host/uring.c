/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One io_uring per loop, and the sleeping and waking that the loop needs.
 *
 * The ring is entered once per loop turn (board_turn: submit) or to sleep (board_idle: submit and
 * wait). Completions are run by a poller. With IORING_SETUP_DEFER_TASKRUN the kernel does a
 * completion's last part only when we enter, so no signal-like interruption happens in between;
 * older kernels get a plain ring.
 *
 * A read of an eventfd is always pending on the ring: board_wake and the signal handler write to
 * it, and a loop that sleeps in the ring wakes up like from any other completion.
 */
#include "board/host/host.h"
#include "board/host/uring.h"
#include "kernel/board.h"
#include "kernel/loop.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RING_ENTRIES 1024u
#define REAP_BATCH   32u
#define REAP_ROUNDS  8u

struct ring {
    struct io_uring uring;
    struct poller poller;
    struct uring_op wake_op;
    uint64_t wake_count; /* what the eventfd gave */
    int wake_fd;
    bool started;
};
static struct ring rings[MAX_LOOPS];

void (*board_quit_hook)(void);
static volatile sig_atomic_t signals;

static void start(struct ring *r);

static inline struct ring *self(void)
{
    struct ring *r = &rings[loop_id()];
    if (unlikely(!r->started))
        start(r);
    return r;
}

struct io_uring_sqe *uring_sqe(struct uring_op *op)
{
    struct ring *r = self();
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);
    if (unlikely(!sqe)) {
        io_uring_submit(&r->uring);
        sqe = io_uring_get_sqe(&r->uring);
        ASSERT(sqe);
    }
    io_uring_sqe_set_data(sqe, op);
    return sqe;
}

/* ---- completions ---- */

static bool reap_batch(struct ring *r)
{
    struct io_uring_cqe *cqes[REAP_BATCH];
    unsigned n = io_uring_peek_batch_cqe(&r->uring, cqes, REAP_BATCH);
    for (unsigned i = 0; i < n; i++) {
        struct uring_op *op = io_uring_cqe_get_data(cqes[i]);
        int res = cqes[i]->res;
        uint32_t flags = cqes[i]->flags;
        io_uring_cqe_seen(&r->uring, cqes[i]);
        if (op)
            op->done(op, res, flags);
    }
    return n > 0;
}

static void quit_on_signal(void)
{
    signals = 0;
    if (!board_quit_hook)
        board_exit(BOARD_EXIT_CLEAN);
    board_quit_hook();
}

static bool poll_ring(struct poller *p)
{
    struct ring *r = container_of(p, struct ring, poller);
    bool work = false;
    for (unsigned i = 0; i < REAP_ROUNDS && reap_batch(r); i++)
        work = true;
    if (unlikely(signals) && loop_id() == 0) {
        quit_on_signal();
        work = true;
    }
    return work;
}

/* ---- waking ---- */

static void await_wake(struct ring *r)
{
    io_uring_prep_read(uring_sqe(&r->wake_op), r->wake_fd, &r->wake_count, sizeof(r->wake_count),
                       0);
}

static void woken(struct uring_op *op, int res, uint32_t flags)
{
    struct ring *r = container_of(op, struct ring, wake_op);
    (void)res, (void)flags;
    await_wake(r);
}

void board_wake(unsigned loop)
{
    uint64_t one = 1;
    if (!rings[loop].started)
        return; /* it has not slept yet, and will look first */
    if (write(rings[loop].wake_fd, &one, sizeof(one)) < 0)
        return; /* the counter is full: it will wake */
}

static void on_signal(int sig)
{
    (void)sig;
    signals = 1;
    board_wake(0);
}

void board_turn(void)
{
    struct ring *r = self();
    if (io_uring_sq_ready(&r->uring))
        io_uring_submit(&r->uring);
}

void board_idle(uint64_t deadline_ns)
{
    struct ring *r = self();
    struct __kernel_timespec ts;
    uint64_t now = board_clock_ns(), ns = deadline_ns > now ? deadline_ns - now : 0;
    struct io_uring_cqe *cqe;
    ts.tv_sec = (int64_t)(ns / 1000000000u);
    ts.tv_nsec = (int64_t)(ns % 1000000000u);
    io_uring_submit_and_wait_timeout(&r->uring, &cqe, 1, deadline_ns == UINT64_MAX ? NULL : &ts,
                                     NULL);
}

/* ---- start ---- */

static void take_signals(void)
{
    struct sigaction quit = {.sa_handler = on_signal}, ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGTERM, &quit, NULL);
    sigaction(SIGINT, &quit, NULL);
    sigaction(SIGHUP, &quit, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
}

static int make_ring(struct io_uring *u)
{
    int e = io_uring_queue_init(RING_ENTRIES, u,
                                IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
    return e == -EINVAL ? io_uring_queue_init(RING_ENTRIES, u, 0) : e;
}

static void start(struct ring *r)
{
    int e = make_ring(&r->uring);
    r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (e || r->wake_fd < 0) {
        log_plain("error: cannot set up io_uring: %s", strerror(e ? -e : errno));
        board_exit(BOARD_EXIT_CONFIG);
    }
    r->wake_op.done = woken;
    r->poller.poll = poll_ring;
    poller_add(&r->poller);
    r->started = true;
    await_wake(r);
}

void board_init(void)
{
    take_signals();
}
