/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What there is: query-named-block-nodes, query-block-exports. The graph changes on this loop only,
 * and nothing here yields, so each answer is one moment.
 *
 * Backing files are named, not nested: a chain may have 512 links, and each is a node of the list
 * (QEMU's flat=true).
 */
#include "blk/blk.h"

/* ---- ImageInfo ------------------------------------------------------------------------------- */

struct image_info {
    const char *filename, *format, *backing_filename, *full_backing_filename;
    uint64_t virtual_size;
    struct schema_union specific;
};

/* {"type": "qcow2", "data": {...}}: the branch has one member, of the driver's own type. */
struct specific_base {
    const char *type;
};
static const struct field specific_fields[] = {
    FIELD_REQ(struct specific_base, type, "type", &type_str, "Driver"),
    {0},
};
static const struct type type_specific = {
    .kind = TYPE_UNION,
    .name = "ImageInfoSpecific",
    .size = sizeof(struct specific_base),
    .fields = specific_fields,
    .tag = "type",
};

static const struct field image_fields[] = {
    FIELD_REQ(struct image_info, filename, "filename", &type_str, "Name of the image"),
    FIELD_REQ(struct image_info, format, "format", &type_str, "Driver"),
    FIELD_REQ(struct image_info, virtual_size, "virtual-size", &type_size, "Bytes"),
    FIELD_OPTS(struct image_info, backing_filename, "backing-filename", &type_str,
               "Name of the backing image"),
    FIELD_OPTS(struct image_info, full_backing_filename, "full-backing-filename", &type_str,
               "The same, resolved"),
    FIELD_OPTS(struct image_info, specific, "format-specific", &type_specific,
               "What only this driver knows"),
    {0},
};
static const struct type type_image_info =
    TYPE_STRUCT_OF("ImageInfo", struct image_info, image_fields);

/* The table of such a branch, which exists as long as the answer. */
struct specific_branch {
    struct type type;
    struct field fields[2];
};

static int get_specific(struct node *n, struct schema_union *out, struct arena *a)
{
    if (!n->drv->info)
        return 0;
    struct specific_base *base = arena_alloc(a, sizeof(*base));
    struct specific_branch *b = arena_alloc(a, sizeof(*b));
    void *data = arena_alloc(a, schema_size(n->drv->info));
    if (!base || !b || !data)
        return SR_ENOMEM;
    n->drv->get_info(n, data, a);
    base->type = n->drv->name;
    b->fields[0] = (struct field){.name = "data", .type = n->drv->info};
    b->type = (struct type){.kind = TYPE_STRUCT, .fields = b->fields};
    *out = (struct schema_union){.tag = n->drv->name, .base = base, .type = &b->type, .opts = data};
    return 0;
}

/* ---- BlockDeviceInfo ------------------------------------------------------------------------- */

struct cache_info {
    bool writeback, direct, no_flush;
};
static const struct field cache_fields[] = {
    FIELD_REQ(struct cache_info, writeback, "writeback", &type_bool, "Writes wait for a flush"),
    FIELD_REQ(struct cache_info, direct, "direct", &type_bool, "Around the host's page cache"),
    FIELD_REQ(struct cache_info, no_flush, "no-flush", &type_bool, "Flushes are ignored"),
    {0},
};
static const struct type type_cache_info =
    TYPE_STRUCT_OF("BlockdevCacheInfo", struct cache_info, cache_fields);

struct node_info {
    const char *file, *node_name, *drv, *backing_file;
    bool ro, encrypted;
    int detect_zeroes;
    int64_t backing_file_depth, bps, bps_rd, bps_wr, iops, iops_rd, iops_wr, write_threshold;
    struct image_info image;
    struct cache_info cache;
};
static const char *const detect_zeroes_names[] = {"off", "on", "unmap", NULL};
static const struct type type_detect_zeroes =
    TYPE_ENUM_OF("BlockdevDetectZeroesOptions", detect_zeroes_names);

#define LIMIT(member) \
    FIELD_REQ(struct node_info, member, #member, &type_int, "Throttling limit; 0: none")
static const struct field node_fields[] = {
    FIELD_REQ(struct node_info, file, "file", &type_str, "Name of the image"),
    FIELD_REQ(struct node_info, node_name, "node-name", &type_str, "Name of the node"),
    FIELD_REQ(struct node_info, ro, "ro", &type_bool, "Read-only"),
    FIELD_REQ(struct node_info, drv, "drv", &type_str, "Driver"),
    FIELD_OPTS(struct node_info, backing_file, "backing_file", &type_str, "Backing image"),
    FIELD_REQ(struct node_info, backing_file_depth, "backing_file_depth", &type_int,
              "Images below this one"),
    FIELD_REQ(struct node_info, encrypted, "encrypted", &type_bool, "Encrypted by the driver"),
    FIELD_REQ(struct node_info, detect_zeroes, "detect_zeroes", &type_detect_zeroes,
              "What happens to written zeroes"),
    LIMIT(bps),
    LIMIT(bps_rd),
    LIMIT(bps_wr),
    LIMIT(iops),
    LIMIT(iops_rd),
    LIMIT(iops_wr),
    FIELD_REQ(struct node_info, image, "image", &type_image_info, "The image"),
    FIELD_REQ(struct node_info, cache, "cache", &type_cache_info, "Cache mode"),
    FIELD_REQ(struct node_info, write_threshold, "write_threshold", &type_int,
              "Offset of writes that raise an event; 0: none"),
    {0},
};
static const struct type type_node_info =
    TYPE_STRUCT_OF("BlockDeviceInfo", struct node_info, node_fields);
static const struct type type_node_list = TYPE_ARRAY_OF(&type_node_info);

static int64_t backing_depth(const struct node *n)
{
    int64_t depth = 0;
    while (n->backing) {
        n = n->backing->node;
        depth++;
    }
    return depth;
}

static int get_node(struct node *n, struct node_info *i, struct arena *a)
{
    const char *backing = n->backing ? n->backing->node->filename : NULL;
    *i = (struct node_info){
        .file = n->filename,
        .node_name = n->name,
        .drv = n->drv->name,
        .backing_file = backing,
        .ro = n->read_only,
        .detect_zeroes = (int)n->detect_zeroes,
        .backing_file_depth = backing_depth(n),
        .image = {.filename = n->filename,
                  .format = n->drv->name,
                  .backing_filename = backing,
                  .full_backing_filename = backing,
                  .virtual_size = n->size},
        .cache = {.writeback = true, .direct = n->cache_direct, .no_flush = n->cache_no_flush},
    };
    return get_specific(n, &i->image.specific, a);
}

struct nodes_args {
    bool flat;
};
static const struct field nodes_args_fields[] = {
    FIELD_DEF(struct nodes_args, flat, "flat", &type_bool, "off",
              "Without nested backing images, which we never send"),
    {0},
};
static const struct type type_nodes_args =
    TYPE_STRUCT_OF("q_obj_query-named-block-nodes-arg", struct nodes_args, nodes_args_fields);

static size_t length(const struct list *l)
{
    size_t n = 0;
    for (const struct list *i = l->next; i != l; i = i->next)
        n++;
    return n;
}

/* An array of `count` elements in the arena; NULL: no memory. */
static struct schema_array *array_new(struct arena *a, size_t count, size_t size)
{
    struct schema_array *list = arena_alloc(a, sizeof(*list));
    void *items = arena_alloc(a, count * size);
    if (list)
        list->items = items;
    return items ? list : NULL;
}

static int co_query_nodes(const void *args, const struct value *raw, struct command_result *res,
                          struct error *err)
{
    (void)args, (void)raw, (void)err;
    struct arena *a = res->arena;
    struct schema_array *list = array_new(a, length(node_list()), sizeof(struct node_info));
    if (!list)
        return SR_ENOMEM;
    list_for_each (n, node_list(), struct node, link) {
        struct node_info *i = (struct node_info *)list->items + list->count;
        if (n->opening)
            continue;
        if (get_node(n, i, a))
            return SR_ENOMEM;
        list->count++;
    }
    res->data = list;
    return 0;
}
static const struct command command_nodes = {
    .name = "query-named-block-nodes",
    .args = &type_nodes_args,
    .result = &type_node_list,
    .co_run = co_query_nodes,
    .doc = "All block nodes, with what is known of each",
};
REGISTER(command, command_nodes);

/* ---- query-block-exports --------------------------------------------------------------------- */

struct export_info {
    const char *id, *type, *node_name;
    bool shutting_down;
};
static const struct field export_fields[] = {
    FIELD_REQ(struct export_info, id, "id", &type_str, "Name of the export"),
    FIELD_REQ(struct export_info, type, "type", &type_str, "Kind of export"),
    FIELD_REQ(struct export_info, node_name, "node-name", &type_str, "Node that it serves"),
    FIELD_REQ(struct export_info, shutting_down, "shutting-down", &type_bool, "On its way out"),
    {0},
};
static const struct type type_export_info =
    TYPE_STRUCT_OF("BlockExportInfo", struct export_info, export_fields);
static const struct type type_export_list = TYPE_ARRAY_OF(&type_export_info);

static int co_query_exports(const void *args, const struct value *raw, struct command_result *res,
                            struct error *err)
{
    (void)args, (void)raw, (void)err;
    struct schema_array *list =
        array_new(res->arena, length(export_list()), sizeof(struct export_info));
    if (!list)
        return SR_ENOMEM;
    struct export_info *i = list->items;
    list_for_each (e, export_list(), struct export, link)
        i[list->count++] = (struct export_info){.id = e->id,
                                                .type = e->type->name,
                                                .node_name = e->origin.root->node->name,
                                                .shutting_down = e->shutting_down};
    res->data = list;
    return 0;
}
static const struct command command_exports = {
    .name = "query-block-exports",
    .result = &type_export_list,
    .co_run = co_query_exports,
    .doc = "All exports",
};
REGISTER(command, command_exports);
