/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where monitors come from: the console port of our name, whenever it exists, and
 *
 *     --chardev socket,id=q0,path=P,server=on,wait=off          a name for an address
 *     --chardev socket,id=q0,host=H,port=N,server=on,wait=off
 *     --monitor chardev=q0                                      serve QMP on it
 *
 * Listening begins when all options were applied and the network is up, so a command never meets a
 * half-configured machine. Each connection is a monitor of its own.
 */
#include <stdio.h>
#include <string.h>

#include "control/qmp.h"
#include "kernel/command.h"
#include "kernel/fault.h"
#include "kernel/log.h"
#include "kernel/port.h"
#include "kernel/stream.h"

#define QMP_PORT "org.strongroom.qmp"

struct chardev {
    struct list link;
    char *id, *host, *port, *path;
    bool used, pretty; /* by a --monitor */
    struct listener *listener;
};
static struct list chardevs = LIST_INIT(chardevs);

static struct chardev *chardev_find(const char *id)
{
    list_for_each (c, &chardevs, struct chardev, link)
        if (!strcmp(c->id, id))
            return c;
    return NULL;
}

static void chardev_free(struct chardev *c)
{
    list_remove(&c->link);
    sr_free(c->id);
    sr_free(c->host);
    sr_free(c->port);
    sr_free(c->path);
    sr_free(c);
}

/* ---- --chardev ------------------------------------------------------------------------------- */

struct socket_options {
    const char *path, *host, *port;
    bool server, wait;
};
static const struct field socket_fields[] = {
    FIELD_OPTS(struct socket_options, path, "path", &type_str, "Path of a unix socket"),
    FIELD_OPTS(struct socket_options, host, "host", &type_str, "Address to listen on"),
    FIELD_OPTS(struct socket_options, port, "port", &type_str, "TCP port"),
    FIELD_DEF(struct socket_options, server, "server", &type_bool, "off",
              "Listen; must be on: nothing here connects"),
    FIELD_DEF(struct socket_options, wait, "wait", &type_bool, "off",
              "Wait for a client; must be off"),
    {0},
};
static const struct type type_socket =
    TYPE_STRUCT_OF("ChardevSocket", struct socket_options, socket_fields);

struct chardev_base {
    const char *backend, *id;
};
static const struct field chardev_fields[] = {
    FIELD_REQ(struct chardev_base, backend, "backend", &type_str, "Kind of channel"),
    FIELD_REQ(struct chardev_base, id, "id", &type_str, "Its name"),
    {0},
};

static const struct type *backend_type(const char *name)
{
    return strcmp(name, "socket") ? NULL : &type_socket;
}

static const char *backend_name(size_t n)
{
    return n ? NULL : "socket";
}

static const struct type type_chardev = {
    .kind = TYPE_UNION,
    .name = "ChardevOptions",
    .size = sizeof(struct chardev_base),
    .fields = chardev_fields,
    .tag = "backend",
    .branch = backend_type,
    .iterate = backend_name,
};

static int check_socket(const struct chardev_base *b, const struct socket_options *o,
                        struct error *err)
{
    if (chardev_find(b->id))
        return error_set(err, SR_EEXIST, "chardev '%s' already exists", b->id);
    if (o->path ? o->host || o->port : !o->host || !o->port)
        return error_set(err, SR_EINVAL, "chardev: socket: either path, or host and port");
    if (!o->server || o->wait)
        return error_set(err, SR_EINVAL, "chardev: socket: server=on,wait=off is needed");
    return 0;
}

static bool copy(char **to, const char *from)
{
    return !from || (*to = sr_strdup(from));
}

static int co_chardev(const void *opts, const struct value *raw, bool text, struct error *err)
{
    (void)raw, (void)text;
    const struct schema_union *u = opts;
    const struct chardev_base *b = u->base;
    const struct socket_options *o = u->opts;
    int rc = check_socket(b, o, err);
    if (rc)
        return rc;
    struct chardev *c = sr_calloc(1, sizeof(*c));
    if (!c)
        return SR_ENOMEM;
    list_init(&c->link);
    if (!copy(&c->id, b->id) || !copy(&c->path, o->path) || !copy(&c->host, o->host) ||
        !copy(&c->port, o->port)) {
        chardev_free(c);
        return SR_ENOMEM;
    }
    list_append(&chardevs, &c->link);
    return 0;
}
static const struct option_def option_chardev = {
    .name = "chardev",
    .type = &type_chardev,
    .implied = "backend",
    .co_apply = co_chardev,
    .doc = "Name a channel for a monitor",
};
REGISTER(option, option_chardev);

/* ---- --monitor ------------------------------------------------------------------------------- */

enum { MODE_CONTROL, MODE_READLINE };
struct monitor_options {
    const char *id, *chardev;
    int mode;
    bool pretty;
};
static const char *const mode_names[] = {"control", "readline", NULL};
static const struct type type_mode = TYPE_ENUM_OF("MonitorMode", mode_names);
static const struct field monitor_fields[] = {
    FIELD_OPTS(struct monitor_options, id, "id", &type_str, "Name of the monitor"),
    FIELD_DEF(struct monitor_options, mode, "mode", &type_mode, "control", "Must be control: QMP"),
    FIELD_DEF(struct monitor_options, pretty, "pretty", &type_bool, "off",
              "Indented replies, for people"),
    FIELD_REQ(struct monitor_options, chardev, "chardev", &type_str, "Channel to serve QMP on"),
    {0},
};
static const struct type type_monitor =
    TYPE_STRUCT_OF("MonitorOptions", struct monitor_options, monitor_fields);

static int co_monitor(const void *opts, const struct value *raw, bool text, struct error *err)
{
    (void)raw, (void)text;
    const struct monitor_options *o = opts;
    struct chardev *c = chardev_find(o->chardev);
    if (o->mode != MODE_CONTROL)
        return error_set(err, SR_EINVAL, "Only QMP is supported");
    if (!c)
        return error_set(err, SR_ENOENT, "chardev \"%s\" not found", o->chardev);
    if (c->used)
        return error_set(err, SR_EBUSY, "Device '%s' is in use", o->chardev);
    c->used = true;
    c->pretty = o->pretty;
    return 0;
}
static const struct option_def option_monitor = {
    .name = "monitor",
    .type = &type_monitor,
    .implied = "chardev",
    .co_apply = co_monitor,
    .doc = "Serve QMP on a channel",
};
REGISTER(option, option_monitor);

/* ---- Start and stop -------------------------------------------------------------------------- */

static void accepted(void *ctx, struct stream *s)
{
    struct chardev *c = ctx;
    qmp_serve(s, c->pretty);
}

static void on_port(void *ctx, struct port *p, bool connected)
{
    (void)ctx;
    if (connected)
        qmp_serve(p->stream, false);
}

static char hook_name[200] = "monitor"; /* an error here is that of an option */

static int co_chardev_listen(struct chardev *c, struct error *err)
{
    struct listen_address a = {
        .type = c->path ? ADDR_UNIX : ADDR_INET, .host = c->host, .port = c->port, .path = c->path};
    c->listener = co_listen(&a, 1, accepted, c, err);
    if (c->listener)
        return 0;
    snprintf(hook_name, sizeof(hook_name),
             c->path ? "--chardev socket,id=%s,path=%s" : "--chardev socket,id=%s,host=%s,port=%s",
             c->id, c->path ? c->path : c->host, c->port);
    return SR_EIO;
}

static int co_start_monitors(struct error *err)
{
    int rc = port_watch(QMP_PORT, on_port, NULL);
    list_for_each (c, &chardevs, struct chardev, link)
        if (!rc && c->used)
            rc = co_chardev_listen(c, err);
    return rc;
}
static const struct start_hook start_monitors = {
    .name = hook_name,
    .order = START_MONITOR,
    .co_run = co_start_monitors,
};
REGISTER(start_hook, start_monitors);

static void co_stop_monitors(uint64_t deadline_ns)
{
    list_for_each (c, &chardevs, struct chardev, link)
        if (c->listener)
            listener_close(c->listener);
    co_qmp_close_all(deadline_ns);
    list_for_each_safe (c, &chardevs, struct chardev, link)
        chardev_free(c);
}
static const struct stop_hook stop_monitors = {
    .name = "monitors",
    .order = STOP_MONITORS,
    .co_run = co_stop_monitors,
};
REGISTER(stop_hook, stop_monitors);
