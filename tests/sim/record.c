/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/sim/record.h"

#include "kernel/error.h"
#include "tests/sim/stamp.h"

#include <stdio.h>
#include <stdlib.h>

const char *const request_names[] = {"write", "zero", "discard", "truncate", "flush"};
const char *const op_names[] = {"write", "zero", "discard", "compressed write",
                                "flush", "read", "reopen"};

void record_reset(struct record *r)
{
    r->nevents = r->nchanges = r->nrequests = r->nops = 0;
    r->order = 0;
    r->trace = 0;
    heap_reset(&r->heap);
}

void record_free(struct record *r)
{
    heap_reset(&r->heap);
    free(r->events);
    free(r->changes);
    free(r->requests);
    free(r->ops);
}

static void trace(struct record *r, uint64_t what)
{
    r->trace = hash_two(r->trace, what);
}

static uint32_t event(struct record *r, uint32_t kind, uint32_t index)
{
    GROW(r->events, r->nevents, r->cap_events);
    r->events[r->nevents] = (struct event){kind, index};
    trace(r, (uint64_t)kind << 32 | index);
    return (uint32_t)r->nevents++;
}

uint32_t record_request(struct record *r, struct request q)
{
    GROW(r->requests, r->nrequests, r->cap_requests);
    q.issued = (uint32_t)r->nevents;
    q.answered = NEVER;
    r->requests[r->nrequests] = q;
    trace(r, (uint64_t)q.kind << 8 | q.medium);
    return (uint32_t)r->nrequests++;
}

uint32_t record_change(struct record *r, struct change c)
{
    uint32_t index = (uint32_t)r->nchanges++;
    GROW(r->changes, index, r->cap_changes);
    c.order = NEVER;
    r->changes[index] = c;
    event(r, EV_CHANGE, index);
    trace(r, (uint64_t)c.sector << 32 | c.count);
    for (uint32_t i = 0; i < c.count; i++)
        trace(r, c.v[i].hash);
    return index;
}

void record_answer(struct record *r, uint32_t request, bool failed)
{
    struct request *q = &r->requests[request];
    q->failed = failed;
    q->answered = event(r, EV_ANSWER, request);
    trace(r, failed);
}

uint32_t record_call(struct record *r, struct op o)
{
    uint32_t index = (uint32_t)r->nops++;
    GROW(r->ops, index, r->cap_ops);
    o.returned = NEVER;
    o.called = event(r, EV_CALL, index);
    r->ops[index] = o;
    trace(r, (uint64_t)o.kind << 32 | o.seq);
    trace(r, hash_two(o.off, o.len));
    return index;
}

void record_return(struct record *r, uint32_t op, int result)
{
    struct op *o = &r->ops[op];
    o->result = result;
    o->returned = event(r, EV_RETURN, op);
    trace(r, (uint32_t)result);
    if (o->kind == OP_READ && !result)
        trace(r, hash_bytes(o->data, o->len));
}

/* ---- for people ---- */

static void print_change(const struct record *r, const struct change *c)
{
    const struct request *q = &r->requests[c->request];
    char text[200] = "";
    if (c->count)
        stamp_tell(c->v[0].data, (uint64_t)c->sector * SECTOR, text, sizeof(text));
    printf("medium %u request %u %s%s %#x+%#x: %s\n", q->medium, c->request, request_names[q->kind],
           q->fua ? " fua" : "", c->sector * SECTOR, c->count * SECTOR, text);
}

static void print_op(const struct op *o, bool call)
{
    if (call)
        printf("guest %s%s %u %#llx+%#llx\n", op_names[o->kind], o->fua ? " fua" : "", o->seq,
               (unsigned long long)o->off, (unsigned long long)o->len);
    else
        printf("guest %s %u: %s\n", op_names[o->kind], o->seq,
               o->result ? sr_strerror(o->result) : "done");
}

void record_print(const struct record *r)
{
    for (size_t i = 0; i < r->nevents; i++) {
        const struct event *e = &r->events[i];
        printf("%5zu ", i);
        if (e->kind == EV_CHANGE)
            print_change(r, &r->changes[e->index]);
        else if (e->kind == EV_ANSWER)
            printf("medium %u request %u %s: %s\n", r->requests[e->index].medium, e->index,
                   request_names[r->requests[e->index].kind],
                   r->requests[e->index].failed ? "failed" : "answered");
        else
            print_op(&r->ops[e->index], e->kind == EV_CALL);
    }
}
