/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Between value trees and C structs, by typed tables.
 *
 *     tree ── decode ──► struct (strings, arrays, sub-objects in the arena) ── encode ──► tree
 *
 * Decoding goes through the fields in the table's order, as QEMU's visitors do, so that of several
 * mistakes the same one is told; keys that no field took are told last. A union first reads its tag,
 * then the other base fields, then the branch's. Where we are is a list of names on the stack, put
 * together only for an error's sentence ("file.filename", text "list.0", JSON "list[0]").
 *
 * Recursion follows the tables, not the tree, and tables nest a few levels; only SCHEMA_DEEP, which
 * looks into inline definitions, goes as deep as the tree.
 *
 * Missing on purpose: floating-point members (nothing has one), alternates but TYPE_REF's.
 */
#include "kernel/schema.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/fault.h"
#include "kernel/log.h"

const struct type type_bool = {.kind = TYPE_BOOL, .name = "bool"};
const struct type type_int = {.kind = TYPE_INT, .name = "int"};
const struct type type_uint8 = {.kind = TYPE_INT, .name = "uint8_t", .max = UINT8_MAX};
const struct type type_uint16 = {.kind = TYPE_INT, .name = "uint16_t", .max = UINT16_MAX};
const struct type type_uint32 = {.kind = TYPE_INT, .name = "uint32_t", .max = UINT32_MAX};
const struct type type_size = {.kind = TYPE_SIZE, .name = "size"};
const struct type type_str = {.kind = TYPE_STR, .name = "str"};
const struct type type_any = {.kind = TYPE_ANY, .name = "any"};
const struct type type_str_array = TYPE_ARRAY_OF(&type_str);
static const struct field no_fields[] = {{0}};
const struct type type_empty = {.kind = TYPE_STRUCT, .fields = no_fields};

/* ---- Arena ----------------------------------------------------------------------------------- */

#define ARENA_BLOCK 1024u
#define ARENA_ALIGN 16u

struct arena_block {
    struct arena_block *next;
    size_t used, size;
} __attribute__((aligned(ARENA_ALIGN)));

void arena_init(struct arena *a)
{
    a->blocks = NULL;
}

static struct arena_block *arena_grow(struct arena *a, size_t n)
{
    size_t size = MAX(n, (size_t)ARENA_BLOCK);
    struct arena_block *b = sr_malloc(sizeof(*b) + size);
    if (b) {
        *b = (struct arena_block){.next = a->blocks, .size = size};
        a->blocks = b;
    }
    return b;
}

void *arena_alloc(struct arena *a, size_t n)
{
    if (n > SIZE_MAX / 2)
        return NULL;
    n = align_up(n ? n : 1, ARENA_ALIGN);
    struct arena_block *b = a->blocks;
    if (!b || n > b->size - b->used)
        b = arena_grow(a, n);
    if (!b)
        return NULL;
    void *p = (char *)(b + 1) + b->used;
    b->used += n;
    return memset(p, 0, n);
}

char *arena_strdup(struct arena *a, const char *s)
{
    size_t n = strlen(s) + 1;
    char *p = arena_alloc(a, n);
    return p ? memcpy(p, s, n) : NULL;
}

void arena_free(struct arena *a)
{
    while (a->blocks) {
        struct arena_block *next = a->blocks->next;
        sr_free(a->blocks);
        a->blocks = next;
    }
}

/* ---- Where we are, and what is wrong there --------------------------------------------------- */

struct path {
    const struct path *up;
    const char *name; /* NULL: element `index` of a list */
    size_t index;
};
struct decoder {
    unsigned flags;
    struct arena *arena;
    struct error *err;
};

#define PATH_MAX_TEXT 160
static size_t path_text(const struct path *p, bool text, char *out)
{
    if (!p)
        return *out = 0;
    size_t n = path_text(p->up, text, out);
    char *end = out + n;
    size_t room = PATH_MAX_TEXT - n;
    if (p->name)
        snprintf(end, room, "%s%s", n ? "." : "", p->name);
    else
        snprintf(end, room, text ? ".%zu" : "[%zu]", p->index);
    return n + strlen(end);
}

static int fail(const struct decoder *d, const struct path *at, const char *before,
                const char *after, const char *what)
{
    char name[PATH_MAX_TEXT];
    path_text(at, d->flags & SCHEMA_TEXT, name);
    return error_set(d->err, SR_EINVAL, "%s '%s%s%s", before, name, after, what);
}

static int wrong_type(const struct decoder *d, const struct value *v, const struct path *at,
                      const char *expected)
{
    bool dotted = (d->flags & SCHEMA_TEXT) && value_kind(v) == VALUE_DICT;
    if (dotted)
        return fail(d, at, "Parameters", ".*' are unexpected", "");
    return fail(d, at, "Invalid parameter type for", "', expected: ", expected);
}

static int expects(const struct decoder *d, const struct path *at, const char *what)
{
    return fail(d, at, "Parameter", "' expects ", what);
}

/* QEMU names only the last part here. */
static int not_accepted(const struct decoder *d, const struct path *at, const char *value)
{
    struct path last = *at;
    if (last.name)
        last.up = NULL;
    char name[PATH_MAX_TEXT];
    path_text(&last, d->flags & SCHEMA_TEXT, name);
    return error_set(d->err, SR_EINVAL, "Parameter '%s' does not accept value '%s'", name, value);
}

static int no_memory(const struct decoder *d)
{
    return error_set(d->err, SR_ENOMEM, "%s", sr_strerror(SR_ENOMEM));
}

/* ---- Scalars --------------------------------------------------------------------------------- */

/* The text of a string in text mode, else NULL. */
static const char *text_of(const struct decoder *d, const struct value *v)
{
    return (d->flags & SCHEMA_TEXT) && value_kind(v) == VALUE_STR ? value_get_str(v) : NULL;
}

static int decode_bool(const struct decoder *d, const struct value *v, const struct path *at,
                       bool *out)
{
    static const char *const words[] = {"off", "on", "false", "true", "no", "yes", "n", "y"};
    const char *s = text_of(d, v);
    if (s) {
        for (size_t i = 0; i < ARRAY_LEN(words); i++)
            if (!strcmp(s, words[i]))
                return *out = i & 1, 0;
        return expects(d, at, "'on' or 'off'");
    }
    if (value_kind(v) != VALUE_BOOL)
        return wrong_type(d, v, at, "boolean");
    *out = value_get_bool(v);
    return 0;
}

/* Digits, or 0x and hexadecimal digits, to their end. */
static bool parse_digits(const char *s, const char **end, uint64_t *out)
{
    bool hex = s[0] == '0' && (s[1] == 'x' || s[1] == 'X');
    const char *first = hex ? s + 2 : s;
    if (!strchr(hex ? "0123456789abcdefABCDEF" : "0123456789", *first) || !*first)
        return false;
    char *stop;
    errno = 0;
    unsigned long long u = strtoull(first, &stop, hex ? 16 : 10);
    *end = stop;
    *out = u;
    return errno != ERANGE;
}

static bool parse_int(const char *s, int64_t *out)
{
    bool minus = *s == '-';
    uint64_t u;
    const char *end;
    if (!parse_digits(s + minus, &end, &u) || *end || u > (uint64_t)INT64_MAX + minus)
        return false;
    *out = (int64_t)(minus ? 0 - u : u);
    return true;
}

static int out_of_range(const struct decoder *d, const struct type *t, const struct path *at)
{
    char range[80];
    snprintf(range, sizeof(range), "a value between %lld and %llu", (long long)t->min,
             (unsigned long long)(t->max || t->min <= 0 ? t->max : INT64_MAX));
    return expects(d, at, t->name ? t->name : range);
}

static int decode_int(const struct decoder *d, const struct type *t, const struct value *v,
                      const struct path *at, int64_t *out)
{
    bool ranged = t->min || t->max;
    const char *s = text_of(d, v);
    if (s ? !parse_int(s, out) : value_kind(v) != VALUE_INT) {
        return s ? expects(d, at, "integer") : wrong_type(d, v, at, "integer");
    }
    if (!s)
        *out = value_get_int(v);
    bool too_high = (t->max || t->min <= 0) && t->max <= INT64_MAX && *out > (int64_t)t->max;
    return ranged && (*out < t->min || too_high) ? out_of_range(d, t, at) : 0;
}

/* "1.5G": digits, a fraction only before a suffix above bytes, one suffix letter. */
static bool parse_size(const char *s, uint64_t *out)
{
    static const char suffixes[] = "bkmgtpe";
    uint64_t fraction = 0, unit = 1, whole;
    if (!parse_digits(s, &s, &whole))
        return false;
    bool has_fraction = *s == '.';
    for (s += has_fraction; has_fraction && *s >= '0' && *s <= '9'; s++)
        if (unit < 1000000000000000000ull) {
            fraction = fraction * 10 + (uint64_t)(*s - '0');
            unit *= 10;
        }
    if (has_fraction && unit == 1)
        return false;
    unsigned shift = 0;
    if (*s) {
        const char *p = strchr(suffixes, *s | 0x20);
        if (!p || s[1])
            return false;
        shift = 10 * (unsigned)(p - suffixes);
    }
    if ((has_fraction && !shift) || whole > UINT64_MAX >> shift)
        return false;
    uint64_t rest = (uint64_t)(((unsigned __int128)fraction << shift) / unit);
    return !add_overflow64(whole << shift, rest, out);
}

static int decode_size(const struct decoder *d, const struct type *t, const struct value *v,
                       const struct path *at, uint64_t *out)
{
    const char *s = text_of(d, v);
    if (s) {
        if (!parse_size(s, out))
            return expects(d, at, "a size value");
    } else if (value_kind(v) == VALUE_UINT ||
               (value_kind(v) == VALUE_INT && value_get_int(v) >= 0)) {
        *out = value_get_uint(v);
    } else {
        return expects(d, at, "uint64");
    }
    bool outside = (t->min > 0 && *out < (uint64_t)t->min) || (t->max && *out > t->max);
    return outside ? out_of_range(d, t, at) : 0;
}

static int decode_str(const struct decoder *d, const struct value *v, const struct path *at,
                      const char **out)
{
    if (value_kind(v) != VALUE_STR)
        return wrong_type(d, v, at, "string");
    *out = arena_strdup(d->arena, value_get_str(v));
    return *out ? 0 : no_memory(d);
}

static int enum_index(const struct type *t, const char *name)
{
    for (int i = 0; t->names[i]; i++)
        if (!strcmp(t->names[i], name))
            return i;
    return -1;
}

static int decode_enum(const struct decoder *d, const struct type *t, const struct value *v,
                       const struct path *at, int *out)
{
    if (value_kind(v) != VALUE_STR)
        return wrong_type(d, v, at, "string");
    *out = enum_index(t, value_get_str(v));
    return *out < 0 ? not_accepted(d, at, value_get_str(v)) : 0;
}

/* ---- Compounds ------------------------------------------------------------------------------- */

static int decode(const struct decoder *d, const struct type *t, const struct value *v,
                  const struct path *at, void *out);

static int decode_array(const struct decoder *d, const struct type *t, const struct value *v,
                        const struct path *at, struct schema_array *out)
{
    if (value_kind(v) != VALUE_LIST)
        return wrong_type(d, v, at, "array");
    size_t size = schema_size(t->element), count = value_count(v);
    out->items = arena_alloc(d->arena, count * size); /* count is bounded by memory that exists */
    if (!out->items)
        return no_memory(d);
    for (out->count = 0; out->count < count; out->count++) {
        struct path here = {.up = at, .index = out->count};
        int rc = decode(d, t->element, value_at(v, out->count), &here,
                        (char *)out->items + out->count * size);
        if (rc)
            return rc;
    }
    return 0;
}

static int decode_inline_ref(const struct decoder *d, const struct type *t, const struct value *v,
                             const struct path *at, struct schema_ref *out)
{
    out->inl = v;
    out->text = d->flags & SCHEMA_TEXT;
    if (!(d->flags & SCHEMA_DEEP) || !t->element)
        return 0;
    void *scratch = arena_alloc(d->arena, schema_size(t->element));
    return scratch ? decode(d, t->element, v, at, scratch) : no_memory(d);
}

static int decode_ref(const struct decoder *d, const struct type *t, const struct value *v,
                      const struct path *at, struct schema_ref *out)
{
    const char *s = text_of(d, v);
    out->present = true;
    if (t->null_ok && (value_kind(v) == VALUE_NULL || (s && !*s)))
        return out->is_null = true, 0;
    if (value_kind(v) == VALUE_STR)
        return decode_str(d, v, at, &out->name);
    if (value_kind(v) == VALUE_DICT)
        return decode_inline_ref(d, t, v, at, out);
    return wrong_type(d, v, at, t->name);
}

static int decode_default(const struct decoder *d, const struct field *f, const struct path *at,
                          void *out)
{
    struct decoder text = {.flags = SCHEMA_TEXT, .arena = d->arena, .err = d->err};
    struct value *v = value_str(f->dflt);
    if (!v)
        return no_memory(d);
    int rc = decode(&text, f->type, v, at, out);
    value_free(v);
    return rc;
}

static int decode_field(const struct decoder *d, const struct field *f, const struct value *dict,
                        const struct path *at, void *out)
{
    struct path here = {.up = at, .name = f->name};
    void *member = (char *)out + f->offset;
    const struct value *v = value_get(dict, f->name);
    if (v) {
        if (f->has_offset)
            *((bool *)out + f->has_offset) = true;
        return decode(d, f->type, v, &here, member);
    }
    if (f->dflt)
        return decode_default(d, f, &here, member);
    return f->flags & FIELD_OPTIONAL ? 0 : fail(d, &here, "Parameter", "' is missing", "");
}

static int decode_fields(const struct decoder *d, const struct type *t, const struct value *dict,
                         const struct path *at, void *out)
{
    memset(out, 0, t->size);
    for (const struct field *f = t->fields; f && f->name; f++) {
        int rc = decode_field(d, f, dict, at, out);
        if (rc)
            return rc;
    }
    return 0;
}

static const struct field *find_field(const struct type *t, const char *name)
{
    for (const struct field *f = t->fields; f && f->name; f++)
        if (!strcmp(f->name, name))
            return f;
    return NULL;
}

static int check_unexpected(const struct decoder *d, const struct type *t, const struct type *more,
                            const struct value *dict, const struct path *at)
{
    for (size_t i = 0; i < value_count(dict); i++) {
        const char *key = value_key_at(dict, i);
        if (find_field(t, key) || (more && find_field(more, key)))
            continue;
        struct path here = {.up = at, .name = key};
        return fail(d, &here, "Parameter", "' is unexpected", "");
    }
    return 0;
}

static int decode_struct(const struct decoder *d, const struct type *t, const struct value *v,
                         const struct path *at, void *out)
{
    if (value_kind(v) != VALUE_DICT)
        return wrong_type(d, v, at, "object");
    int rc = decode_fields(d, t, v, at, out);
    return rc ? rc : check_unexpected(d, t, NULL, v, at);
}

/* Sets the union's tag and branch. */
static int decode_tag(const struct decoder *d, const struct type *t, const struct value *dict,
                      const struct path *at, struct schema_union *out)
{
    struct path here = {.up = at, .name = t->tag};
    const struct field *f = find_field(t, t->tag);
    const struct value *v = value_get(dict, t->tag);
    if (!v && !f->dflt)
        return fail(d, &here, "Parameter", "' is missing", "");
    if (v && value_kind(v) != VALUE_STR)
        return wrong_type(d, v, &here, "string");
    const char *tag = v ? value_get_str(v) : f->dflt;
    out->type = t->branch(tag);
    if (!out->type)
        return not_accepted(d, &here, tag);
    out->tag = arena_strdup(d->arena, tag);
    return out->tag ? 0 : no_memory(d);
}

static int decode_union(const struct decoder *d, const struct type *t, const struct value *v,
                        const struct path *at, struct schema_union *out)
{
    if (value_kind(v) != VALUE_DICT)
        return wrong_type(d, v, at, "object");
    int rc = decode_tag(d, t, v, at, out);
    if (rc)
        return rc;
    out->base = arena_alloc(d->arena, t->size);
    out->opts = arena_alloc(d->arena, out->type->size);
    if (!out->base || !out->opts)
        return no_memory(d);
    rc = decode_fields(d, t, v, at, out->base);
    if (!rc)
        rc = decode_fields(d, out->type, v, at, out->opts);
    return rc ? rc : check_unexpected(d, t, out->type, v, at);
}

static int decode(const struct decoder *d, const struct type *t, const struct value *v,
                  const struct path *at, void *out)
{
    switch (t->kind) {
    case TYPE_BOOL:
        return decode_bool(d, v, at, out);
    case TYPE_INT:
        return decode_int(d, t, v, at, out);
    case TYPE_SIZE:
        return decode_size(d, t, v, at, out);
    case TYPE_STR:
        return decode_str(d, v, at, out);
    case TYPE_ENUM:
        return decode_enum(d, t, v, at, out);
    case TYPE_STRUCT:
        return decode_struct(d, t, v, at, out);
    case TYPE_ARRAY:
        return decode_array(d, t, v, at, out);
    case TYPE_REF:
        return decode_ref(d, t, v, at, out);
    case TYPE_UNION:
        return decode_union(d, t, v, at, out);
    case TYPE_ANY:
        *(const struct value **)out = v;
        return 0;
    }
    panic("schema: kind %d of %s", (int)t->kind, t->name ? t->name : "?");
}

size_t schema_size(const struct type *t)
{
    static const size_t sizes[] = {
        [TYPE_BOOL] = sizeof(bool),
        [TYPE_INT] = sizeof(int64_t),
        [TYPE_SIZE] = sizeof(uint64_t),
        [TYPE_STR] = sizeof(char *),
        [TYPE_ENUM] = sizeof(int),
        [TYPE_ARRAY] = sizeof(struct schema_array),
        [TYPE_REF] = sizeof(struct schema_ref),
        [TYPE_UNION] = sizeof(struct schema_union),
        [TYPE_ANY] = sizeof(struct value *),
    };
    return t->kind == TYPE_STRUCT ? t->size : sizes[t->kind];
}

int schema_decode(const struct type *t, const struct value *v, unsigned flags, void *out,
                  struct arena *a, struct error *err)
{
    struct decoder d = {.flags = flags, .arena = a, .err = err};
    memset(out, 0, schema_size(t));
    return decode(&d, t, v, NULL, out);
}

/* ---- Encoding -------------------------------------------------------------------------------- */

static bool is_absent(const struct field *f, const void *in)
{
    const void *member = (const char *)in + f->offset;
    if (!(f->flags & FIELD_OPTIONAL))
        return false;
    if (f->has_offset)
        return !*((const bool *)in + f->has_offset);
    switch (f->type->kind) {
    case TYPE_STR:
    case TYPE_ANY:
        return !*(void *const *)member;
    case TYPE_ARRAY:
        return !((const struct schema_array *)member)->items;
    case TYPE_REF:
        return !((const struct schema_ref *)member)->present;
    case TYPE_UNION:
        return !((const struct schema_union *)member)->tag;
    default:
        return false;
    }
}

static int encode_fields(const struct type *t, const void *in, struct value *dict)
{
    for (const struct field *f = t->fields; f && f->name; f++)
        if (!is_absent(f, in) &&
            value_dict_set(dict, f->name, schema_encode(f->type, (const char *)in + f->offset)))
            return SR_ENOMEM;
    return 0;
}

static struct value *encode_struct(const struct type *t, const void *in, const struct type *more,
                                   const void *more_in)
{
    struct value *dict = value_dict();
    if (dict && (encode_fields(t, in, dict) || (more && encode_fields(more, more_in, dict)))) {
        value_free(dict);
        return NULL;
    }
    return dict;
}

static struct value *encode_array(const struct type *t, const struct schema_array *in)
{
    struct value *list = value_list();
    size_t size = schema_size(t->element);
    for (size_t i = 0; list && i < in->count; i++)
        if (value_list_add(list, schema_encode(t->element, (const char *)in->items + i * size))) {
            value_free(list);
            return NULL;
        }
    return list;
}

static struct value *encode_ref(const struct schema_ref *in)
{
    if (in->is_null)
        return value_null();
    return in->name ? value_str(in->name) : value_copy(in->inl);
}

static struct value *encode_enum(const struct type *t, int i)
{
    ASSERT(i >= 0);
    for (int k = 0; k <= i; k++)
        ASSERT(t->names[k]);
    return value_str(t->names[i]);
}

struct value *schema_encode(const struct type *t, const void *in)
{
    const struct schema_union *u = in;
    switch (t->kind) {
    case TYPE_BOOL:
        return value_bool(*(const bool *)in);
    case TYPE_INT:
        return value_int(*(const int64_t *)in);
    case TYPE_SIZE:
        return value_uint(*(const uint64_t *)in);
    case TYPE_STR:
        return value_str(*(const char *const *)in);
    case TYPE_ENUM:
        return encode_enum(t, *(const int *)in);
    case TYPE_STRUCT:
        return encode_struct(t, in, NULL, NULL);
    case TYPE_ARRAY:
        return encode_array(t, in);
    case TYPE_REF:
        return encode_ref(in);
    case TYPE_UNION:
        return encode_struct(t, u->base, u->type, u->opts);
    case TYPE_ANY:
        return value_copy(*(const struct value *const *)in);
    }
    panic("schema: kind %d of %s", (int)t->kind, t->name ? t->name : "?");
}
