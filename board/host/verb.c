/* SPDX-License-Identifier: BSD-2-Clause */
/* What `create`, `check` and their like share: one image file, one coroutine, no server. */
#include "blk/blk.h"
#include "board/host/host.h"
#include "board/main.h"

#include <string.h>
#include <sys/stat.h>

const struct blk_driver *verb_driver(const char *name)
{
    registry_for_each (blk_driver, d)
        if (!strcmp((*d)->name, name))
            return *d;
    return NULL;
}

static struct value *definition(const char *path, bool writable)
{
    struct stat st;
    bool device = !stat(path, &st) && S_ISBLK(st.st_mode);
    struct value *def = value_dict();
    if (def && (value_dict_set(def, "driver", value_str(device ? "host_device" : "file")) ||
                value_dict_set(def, "read-only", value_bool(!writable)) ||
                value_dict_set(def, "filename", value_str(path)))) {
        value_free(def);
        def = NULL;
    }
    return def;
}

static int co_with_node(struct node *n, bool writable, verb_work *co_work, const void *arg,
                        struct error *err)
{
    struct origin *o = blk_calloc(sizeof(*o));
    int r = o ? origin_open(o, n, writable, err) : SR_ENOMEM;
    if (!r) {
        r = co_work(o->root, arg);
        co_origin_close(o);
    }
    blk_free(o);
    return r;
}

int co_verb_with_file(const char *path, bool writable, verb_work *co_work, const void *arg,
                      struct error *err)
{
    struct node *n;
    struct value *def = definition(path, writable);
    int r = def ? co_node_open(def, false, false, &n, err) : SR_ENOMEM;
    value_free(def);
    if (r)
        return r;
    r = co_with_node(n, writable, co_work, arg, err);
    co_node_unref(n);
    return r;
}

void verb_run(co_fn *co_main, void (*cut_short)(void))
{
    static struct co_start start;
    board_quit_hook = cut_short;
    board_init();
    strongroom_memory();
    co_start(&start, co_main, NULL);
    loop_run();
}
