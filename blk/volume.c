/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Names of storage, as image headers carry them: "scheme:rest". They come from whoever wrote the
 * image, so a name only chooses among what a provider offers; it is never a path by itself, and what
 * no provider knows is refused. Here: `serial:S`, an attached disk, and `node:NODE`, an open node.
 */
#include "blk/blk.h"

#include <string.h>

#define SCHEME_MAX 15

static const struct volume_provider *provider_find(const char *scheme, size_t len)
{
    registry_for_each (volume_provider, p)
        if (strlen((*p)->scheme) == len && !memcmp((*p)->scheme, scheme, len))
            return *p;
    return NULL;
}

/* Length of the scheme in front of a colon, or 0. */
static size_t scheme_of(const char *name)
{
    size_t n = 0;
    while ((name[n] >= 'a' && name[n] <= 'z') || (n && name[n] >= '0' && name[n] <= '9'))
        n++;
    return name[n] == ':' && n <= SCHEME_MAX ? n : 0;
}

struct value *volume_resolve(const char *name, const char *relative_to, struct error *err)
{
    size_t n = scheme_of(name);
    const struct volume_provider *p = provider_find(name, n);
    if (!p) {
        error_set(err, SR_ENOENT, "Could not open '%s': %s", name,
                  n ? "Unknown kind of name" : "Not the name of a volume here");
        return NULL;
    }
    return p->resolve(n ? name + n + 1 : name, relative_to, err);
}

/* {driver: d, key: v}; takes v. NULL: no memory. */
static struct value *definition(const char *driver, const char *key, struct value *v)
{
    struct value *def = value_dict(), *d = value_str(driver);
    if (!def || !d || !v) {
        value_free(d);
        value_free(v);
    } else if (!value_dict_set(def, "driver", d)) {
        if (!value_dict_set(def, key, v))
            return def;
    } else {
        value_free(v);
    }
    value_free(def);
    return NULL;
}

static int co_open_resolved(struct node *parent, const char *role, const struct value *v,
                            bool writable, struct child **out, struct error *err)
{
    struct schema_ref ref = {.present = true};
    if (value_kind(v) == VALUE_STR)
        ref.name = value_get_str(v);
    else
        ref.inl = v;
    return co_child_open(parent, role, &ref, writable, out, err);
}

int co_child_open_volume(struct node *parent, const char *role, const char *name,
                         const char *format, bool writable, struct child **out, struct error *err)
{
    const char *from = parent->file ? parent->file->node->filename : "";
    struct value *v = volume_resolve(name, from, err);
    if (v && format)
        v = definition(format, "file", v);
    if (!v) /* a provider has said more than this */
        return error_set(err, SR_ENOENT, "Could not open '%s': %s", name, sr_strerror(SR_ENOMEM));
    int r = co_open_resolved(parent, role, v, writable, out, err);
    value_free(v);
    return r;
}

/* ---- serial:, node: ---- */

static struct value *resolve_serial(const char *rest, const char *relative_to, struct error *err)
{
    (void)relative_to;
    list_for_each (d, disk_list(), struct disk, link) {
        if (strcmp(d->serial, rest))
            continue;
        struct value *v =
            d->user ? value_str(d->user->name) : definition(d->driver, "serial", value_str(rest));
        if (!v)
            error_set(err, SR_ENOMEM, "%s", sr_strerror(SR_ENOMEM));
        return v;
    }
    error_set(err, SR_ENODEV, "Could not open 'serial:%s': No such disk", rest);
    return NULL;
}

static struct value *resolve_node(const char *rest, const char *relative_to, struct error *err)
{
    (void)relative_to;
    struct value *v = node_find(rest) ? value_str(rest) : NULL;
    if (!v)
        error_set(err, SR_ENOENT, "Cannot find device='%s' nor node-name='%s'", rest, rest);
    return v;
}

static const struct volume_provider volume_serial = {"serial", resolve_serial};
static const struct volume_provider volume_node = {"node", resolve_node};
REGISTER(volume_provider, volume_serial);
REGISTER(volume_provider, volume_node);
