/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernel/port.h"

#include "kernel/error.h"
#include "kernel/fault.h"
#include "kernel/log.h"
#include "kernel/loop.h"
#include <string.h>

struct watch {
    struct list link;
    char name[PORT_NAME_MAX + 1];
    port_watch_fn *fn;
    void *ctx;
};

static struct list ports = LIST_INIT(ports);
static struct list watches = LIST_INIT(watches);

struct port *port_find(const char *name)
{
    list_for_each (p, &ports, struct port, link)
        if (!strcmp(p->name, name))
            return p;
    return NULL;
}

static struct watch *watch_find(const char *name)
{
    list_for_each (w, &watches, struct watch, link)
        if (!strcmp(w->name, name))
            return w;
    return NULL;
}

static void begin(struct port *p)
{
    if (p->watched)
        return;
    p->watched = true;
    p->wanted(p);
}

int port_watch(const char *name, port_watch_fn *fn, void *ctx)
{
    ASSERT_LOOP(0);
    if (watch_find(name))
        return SR_EBUSY;
    ASSERT(strlen(name) <= PORT_NAME_MAX);
    struct watch *w = sr_calloc(1, sizeof(*w));
    if (!w)
        return SR_ENOMEM;
    strcpy(w->name, name);
    w->fn = fn;
    w->ctx = ctx;
    list_append(&watches, &w->link);
    struct port *p = port_find(name);
    if (p)
        begin(p);
    return 0;
}

void port_announce(struct port *p)
{
    bool first = !port_find(p->name);
    list_append(&ports, &p->link);
    if (first && watch_find(p->name))
        begin(p);
}

void port_connected(struct port *p, struct stream *stream)
{
    struct watch *w = watch_find(p->name);
    ASSERT(p->watched && w);
    p->stream = stream;
    p->host_connected = stream != NULL;
    w->fn(w->ctx, p, p->host_connected);
}
