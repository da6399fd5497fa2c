/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_SCHEMA_H
#define KERNEL_SCHEMA_H
/*
 * Typed tables: one per driver's options, object, export, command, result and event. From them come
 * the QMP parser, the command-line parser, query-qmp-schema, --help and docs/reference.md; results
 * and events are written *through* them, so what a table lacks cannot be emitted.
 *
 * A table describes a C struct: decoding fills it (memory for strings, arrays and sub-objects comes
 * from an arena that the caller frees as a whole), encoding reads it. C types of the members:
 *
 *     kind         member                     on the command line (text)          JSON
 *     TYPE_BOOL    bool                       on|off|true|false|yes|no|y|n        true, false
 *     TYPE_INT     int64_t                    decimal or 0x.., in [min, max]      number
 *     TYPE_SIZE    uint64_t                   123, 64k, 1.5G (suffix bkMGTPE)     number >= 0
 *     TYPE_STR     const char *               text                                string
 *     TYPE_ENUM    int (index into names)     one of the names                    string
 *     TYPE_STRUCT  the struct itself, inline  dotted keys                         object
 *     TYPE_ARRAY   struct schema_array        dotted numbers: list.0.x=           array
 *     TYPE_REF     struct schema_ref          name, or dotted keys                string, object, or
 *                                             (empty: null, if allowed)           null if allowed
 *     TYPE_UNION   struct schema_union, flat  keys of base and branch             object
 *     TYPE_ANY     const struct value *       any                                 any
 *
 * TYPE_ANY and the inline form of TYPE_REF borrow from the tree that was decoded: it must outlive
 * them. Text and JSON share one decoder: in `text` mode it accepts strings where numbers and
 * booleans are wanted. Unknown keys, missing required keys, wrong types and numbers out of range
 * fail with QEMU's sentences ("Parameter 'x' is missing", "Parameter 'x' is unexpected", "Invalid
 * parameter type for 'x', expected: string", "Parameter 'x' expects ...", "Parameter 'driver' does
 * not accept value 'nosuch'"). Tables are const and live for ever. Control path.
 */
#include "kernel/error.h"
#include "kernel/value.h"

enum type_kind {
    TYPE_BOOL,
    TYPE_INT,
    TYPE_SIZE,
    TYPE_STR,
    TYPE_ENUM,
    TYPE_STRUCT,
    TYPE_ARRAY,
    TYPE_REF,
    TYPE_UNION,
    TYPE_ANY
};

struct field;
struct type {
    enum type_kind kind;
    const char *name; /* QAPI name: "BlockdevOptionsQcow2"; NULL for anonymous */
    int64_t min;  /* INT, SIZE: inclusive range; both 0: the kind's whole range; max 0 above a */
    uint64_t max; /* positive min: no upper end. `name` is what errors call a range */
    const char *const *names;   /* ENUM: NULL-terminated */
    size_t size;                /* STRUCT, UNION base: sizeof of the C struct */
    const struct field *fields; /* STRUCT and UNION base: ended by {0} */
    const struct type *element; /* ARRAY; REF: what an inline definition is */
    bool null_ok;               /* REF: null allowed (BlockdevRefOrNull) */
    const char *tag; /* UNION: name of the base field that selects the branch (TYPE_STR or TYPE_ENUM
                        member) */
    /* UNION: struct of the branch's own fields for a tag value, NULL: no such value. Looks in a
     * registry; &type_empty when it has none. `iterate` gives the nth tag value, for listings, NULL
     * behind the last. */
    const struct type *(*branch)(const char *tag_value);
    const char *(*iterate)(size_t n);
    const char *doc;
};
enum field_flags { FIELD_OPTIONAL = 1, FIELD_UNSTABLE = 2, FIELD_DEPRECATED = 4 };
struct field {
    const char *name; /* as users write it: "node-name" */
    const struct type *type;
    size_t offset; /* of the member */
    size_t
        has_offset; /* of a `bool has_MEMBER`, or 0: none (so has_ must not be the first member) */
    unsigned flags;
    const char *dflt; /* optional with default: as on the command line */
    const char *doc;  /* one sentence without full stop */
};
/*     struct raw_opts { struct schema_ref file; uint64_t offset; bool has_size; uint64_t size; };
 *     static const struct field raw_fields[] = {
 *         FIELD_REQ(struct raw_opts, file, "file", &type_blockdev_ref, "Node to take the bytes
 * from"), FIELD_DEF(struct raw_opts, offset, "offset", &type_size, "0", "First byte"),
 *         FIELD_OPT(struct raw_opts, size, "size", &type_size, "Length; rest of the node when
 * absent"), {0}}; static const struct type raw_type = TYPE_STRUCT_OF("BlockdevOptionsRaw", struct
 * raw_opts, raw_fields);
 */
#define FIELD_REQ(S, m, nm, ty, dc)                                       \
    {                                                                     \
        .name = (nm), .type = (ty), .offset = offsetof(S, m), .doc = (dc) \
    }
#define FIELD_DEF(S, m, nm, ty, df, dc)                                                \
    {                                                                                  \
        .name = (nm), .type = (ty), .offset = offsetof(S, m), .flags = FIELD_OPTIONAL, \
        .dflt = (df), .doc = (dc)                                                      \
    }
/* Optional without default: needs `bool has_m`. Strings may use FIELD_OPTS: absent is NULL. */
#define FIELD_OPT(S, m, nm, ty, dc)                                                               \
    {                                                                                             \
        .name = (nm), .type = (ty), .offset = offsetof(S, m), .has_offset = offsetof(S, has_##m), \
        .flags = FIELD_OPTIONAL, .doc = (dc)                                                      \
    }
#define FIELD_OPTS(S, m, nm, ty, dc)                                                               \
    {                                                                                              \
        .name = (nm), .type = (ty), .offset = offsetof(S, m), .flags = FIELD_OPTIONAL, .doc = (dc) \
    }
#define TYPE_STRUCT_OF(nm, S, f)                                            \
    {                                                                       \
        .kind = TYPE_STRUCT, .name = (nm), .size = sizeof(S), .fields = (f) \
    }
#define TYPE_ENUM_OF(nm, list)                           \
    {                                                    \
        .kind = TYPE_ENUM, .name = (nm), .names = (list) \
    }
#define TYPE_ARRAY_OF(el)                   \
    {                                       \
        .kind = TYPE_ARRAY, .element = (el) \
    }

struct schema_array {
    size_t count;
    void *items; /* count elements of the element type's C size */
};
struct schema_ref {
    const char *name; /* a reference by name, or NULL */
    const struct value
        *inl; /* an inline definition (validated later by whoever opens it), or NULL */
    bool is_null, present;
    bool text; /* leaves of inl are command-line strings */
};
struct schema_union {
    const char *tag;         /* "qcow2" */
    void *base;              /* decoded base fields */
    const struct type *type; /* branch table */
    void *opts;              /* decoded branch fields */
};

extern const struct type type_bool, type_int, type_uint8, type_uint16, type_uint32, type_size,
    type_str, type_any, type_str_array, type_empty;

/* Bump allocator for one decoded option set. */
struct arena {
    struct arena_block *blocks;
};
void arena_init(struct arena *a);
void *arena_alloc(struct arena *a, size_t n); /* zeroed; NULL: no memory */
char *arena_strdup(struct arena *a, const char *s);
void arena_free(struct arena *a);

enum {
    SCHEMA_TEXT = 1, /* values are strings from a command line */
    /* Look into inline definitions, too, so that what is wrong in them is said, with its full name,
     * before anything is opened. As deep as the tree: wants a big stack. */
    SCHEMA_DEEP = 2
};
/* Decode `v` (a dictionary for STRUCT/UNION) into *out (t->size bytes, or the member type of the
 * kind). 0, SR_EINVAL or SR_ENOMEM with err set. */
int schema_decode(const struct type *t, const struct value *v, unsigned flags, void *out,
                  struct arena *a, struct error *err);
/* The other way: NULL when memory is out. Optional fields whose has_ is false (or that are NULL)
 * are left out. */
struct value *schema_encode(const struct type *t, const void *in);
/* Bytes that a decoded value of the type takes. */
size_t schema_size(const struct type *t);
/* "a.b=x,c=1" -> nested dictionary of strings. "," doubled is a comma; the key of a first word
 * without '=' may be implied; keys that are all numbers make a list. A text that begins with '{' is
 * JSON and not for here. NULL with err (SR_EINVAL's or SR_ENOMEM's sentence). */
struct value *schema_parse_keyval(const char *text, const char *implied, struct error *err);
#endif
