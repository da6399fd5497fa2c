/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Origins, gates, drain.
 *
 *     export      job                  origins: one gate per loop
 *        \        /
 *        overlay                       A drain of `base` quiesces base, and with it overlay; the
 *           |                          gates above are closed; when all are idle it is done.
 *         base
 *
 * Counting. A node's `quiesced` is the number of drains of it, plus the number of its edges to
 * quiesced nodes; when it leaves or reaches zero, it counts in its parents, and its filters hold
 * back nothing while it is not zero. An origin's `close_depth` counts the same for its root. So
 * drains nest and overlap, and an edge made or cut under drain carries its share (child_attach,
 * co_child_detach).
 *
 * Gates. Each belongs to its loop, which alone touches it. Loop 0 posts `close`; the gate's loop
 * closes it and sends the job back when nothing is in flight there, at once or from origin_leave.
 * `busy` counts the answers that are missing. `open` needs no answer: posts arrive in order.
 *
 * The control loop only waits; whoever is in flight is on its way out, for the requests of an origin
 * never wait for a gate.
 */
#include "blk/graph.h"
#include "blk/io.h"

/* Aligned like what it lists: the end of a walk takes the head for an origin. */
static struct list origins __attribute__((aligned(CACHE_LINE))) = LIST_INIT(origins);
static struct co_queue idle_wait = {{NULL, &idle_wait.q.first}};

/* ---- a gate, on its loop ---- */

static unsigned loop_of(const struct gate *g)
{
    return (unsigned)(g - g->origin->gate);
}

static void idle_arrived(struct loop_job *job)
{
    struct gate *g = container_of(job, struct gate, close);
    ASSERT(g->origin->busy);
    if (!--g->origin->busy)
        co_queue_wake_all(&idle_wait);
}

void origin_gate_idle(struct gate *g)
{
    g->close.run = idle_arrived;
    if (loop_of(g) == 0)
        idle_arrived(&g->close);
    else
        loop_post(0, &g->close);
}

static void run_close(struct loop_job *job)
{
    struct gate *g = container_of(job, struct gate, close);
    g->closed = true;
    if (!g->inflight)
        origin_gate_idle(g);
}

static void run_open(struct loop_job *job)
{
    struct gate *g = container_of(job, struct gate, open);
    g->closed = false;
    co_queue_wake_all(&g->waiting);
}

static void tell_gate(struct gate *g, struct loop_job *job, void (*run)(struct loop_job *))
{
    job->run = run;
    if (loop_of(g) == 0)
        run(job);
    else
        loop_post(loop_of(g), job);
}

void co_origin_enter(struct origin *o)
{
    while (!origin_try_enter(o))
        co_queue_wait(&o->gate[loop_id()].waiting);
}

/* ---- an origin, on loop 0 ---- */

static void origin_close_gates(struct origin *o)
{
    if (o->close_depth++)
        return;
    o->busy = loop_count();
    for (unsigned i = 0; i < loop_count(); i++)
        tell_gate(&o->gate[i], &o->gate[i].close, run_close);
}

static void origin_open_gates(struct origin *o)
{
    ASSERT(o->close_depth);
    if (--o->close_depth)
        return;
    for (unsigned i = 0; i < loop_count(); i++)
        tell_gate(&o->gate[i], &o->gate[i].open, run_open);
}

int origin_open(struct origin *o, struct node *n, bool writable, struct error *err)
{
    ASSERT_LOOP(0);
    if (writable && n->read_only)
        return error_set(err, SR_EPERM, "Block node is read-only");
    struct child *c = sr_calloc(1, sizeof(*c));
    if (!c)
        return error_set(err, SR_ENOMEM, "%s", sr_strerror(SR_ENOMEM));
    *c = (struct child){.node = n, .role = "root", .writable = writable, .origin = o};
    int r = node_may_attach(c, err);
    if (r) {
        sr_free(c);
        return r;
    }
    list_init(&c->sibling);
    list_append(&n->parents, &c->peer);
    n->refs++;
    o->root = c;
    o->close_depth = o->busy = 0;
    for (unsigned i = 0; i < MAX_LOOPS; i++) {
        o->gate[i] = (struct gate){.origin = o};
        co_queue_init(&o->gate[i].waiting);
    }
    list_append(&origins, &o->link);
    if (n->quiesced)
        origin_close_gates(o);
    return 0;
}

static void co_origin_idle(struct origin *o)
{
    while (o->busy)
        co_queue_wait(&idle_wait);
}

void co_origin_close(struct origin *o)
{
    ASSERT_LOOP(0);
    struct node *n = o->root->node;
    origin_close_gates(o);
    co_origin_idle(o);
    list_remove(&o->root->peer);
    list_remove(&o->link);
    sr_free(o->root);
    o->root = NULL;
    co_node_unref(n);
}

/* ---- nodes ---- */

/* Nodes that have just become quiesced, or no longer are, and have not told their parents yet. */
struct todo {
    struct node *first;
};

static void step(struct todo *t, struct node *n, bool begin)
{
    bool turned = begin ? !n->quiesced++ : !--n->quiesced;
    if (!turned)
        return;
    n->todo = t->first;
    t->first = n;
    if (n->drv->drain)
        n->drv->drain(n, begin);
}

static void tell_parents(struct todo *t, struct node *n, bool begin)
{
    list_for_each (c, &n->parents, struct child, peer) {
        if (c->parent)
            step(t, c->parent, begin);
        else if (begin)
            origin_close_gates(c->origin);
        else
            origin_open_gates(c->origin);
    }
}

static void quiesce(struct node *n, bool begin)
{
    struct todo t = {NULL};
    ASSERT_LOOP(0);
    step(&t, n, begin);
    while ((n = t.first)) {
        t.first = n->todo;
        tell_parents(&t, n, begin);
    }
}

void node_quiesce(struct node *n)
{
    quiesce(n, true);
}

void node_unquiesce(struct node *n)
{
    ASSERT(n->quiesced);
    quiesce(n, false);
}

/* Waits for every closed origin, also for those that another drain closes: all of them are on their
 * way to idle, and nothing in flight can depend on us. */
static void co_wait_idle(void)
{
    bool busy;
    do {
        busy = false;
        list_for_each (o, &origins, struct origin, link)
            busy = busy || o->busy;
        if (busy)
            co_queue_wait(&idle_wait);
    } while (busy);
}

void co_drain_begin(struct node *n)
{
    TRACE(drain, n, 1);
    node_quiesce(n);
    co_wait_idle();
}

void drain_end(struct node *n)
{
    TRACE(drain, n, 0);
    node_unquiesce(n);
}
