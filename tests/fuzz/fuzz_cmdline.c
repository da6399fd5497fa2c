/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The firmware's command line, and through it key=value, JSON and the typed tables. All words go to
 * --probe, whose table has the real ones inside (definitions of nodes and exports) and which opens
 * nothing; other options are made unrecognizable.
 *
 * What was decoded is encoded again, and what is printed must be read back as the same.
 */
#include <string.h>

#include "blk/blk.h"
#include "control/control.h"
#include "control/json.h"
#include "kernel/command.h"
#include "kernel/kernel.h"
#include "tests/fuzz/support_boot.h"

struct probe {
    bool has_size, has_percent;
    uint64_t size;
    int64_t percent;
    int word;
    struct schema_array list;
    const struct value *any;
    struct schema_ref node;
    struct schema_union definition, export;
};
static const char *const words[] = {"one", "two", NULL};
static const struct type type_word = TYPE_ENUM_OF("Word", words);
static const struct type type_percent = {.kind = TYPE_INT, .min = 1, .max = 100};
static const struct field probe_fields[] = {
    FIELD_OPT(struct probe, size, "size", &type_size, ""),
    FIELD_OPT(struct probe, percent, "percent", &type_percent, ""),
    FIELD_DEF(struct probe, word, "word", &type_word, "one", ""),
    FIELD_OPTS(struct probe, list, "list", &type_str_array, ""),
    FIELD_OPTS(struct probe, any, "any", &type_any, ""),
    FIELD_OPTS(struct probe, node, "node", &type_blockdev_ref_or_null, ""),
    FIELD_OPTS(struct probe, definition, "definition", &type_blockdev_options, ""),
    FIELD_OPTS(struct probe, export, "export", &type_export_options, ""),
    {0},
};
static const struct type type_probe = TYPE_STRUCT_OF("Probe", struct probe, probe_fields);

static void check_text(const struct value *v)
{
    struct error err = {0};
    size_t len, again_len;
    char *text = json_print(v, false, &len);
    struct value *back = json_parse(text, len, &err);
    if (!back)
        panic("printed and not read: %s", err.msg);
    char *again = json_print(back, false, &again_len);
    if (len != again_len || memcmp(text, again, len))
        panic("printed twice, differently: %s, %s", text, again);
    sr_free(text);
    sr_free(again);
    value_free(back);
}

static int co_probe(const void *opts, const struct value *raw, bool text, struct error *err)
{
    (void)err, (void)text;
    struct value *v = schema_encode(&type_probe, opts);
    check_text(raw);
    check_text(v);
    value_free(v);
    return 0;
}
static const struct option_def option_probe = {
    .name = "probe", .type = &type_probe, .implied = "word", .co_apply = co_probe, .doc = ""};
REGISTER(option, option_probe);

static char line[8192];
static bool done;

static void co_one(void *arg)
{
    bool configured = false;
    (void)arg;
    (void)co_control_apply_text(line, &configured);
    done = true;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fuzz_boot(32);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    n = MIN(n, sizeof(line) - 1);
    memcpy(line, p, n);
    line[n] = 0;
    for (char *s = line; (s = strstr(s, "--")); s++)
        if (s[2] != 'p')
            *s = '+';
    done = false;
    fuzz_run(co_one, NULL, &done);
    return 0;
}
