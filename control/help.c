/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * --help, from the tables: nothing here knows an option by name. `--help` lists the options,
 * `--help blockdev` the keys of one, with those of each driver behind the common ones. Behind the
 * options, what images are created with, and the QMP commands. Host.
 */
#include "control/control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blk/blk.h"
#include "kernel/command.h"
#include "kernel/kernel.h"

static void print_type(const struct type *t)
{
    switch (t->kind) {
    case TYPE_BOOL:
        printf("on|off");
        break;
    case TYPE_ENUM:
        for (size_t i = 0; t->names[i]; i++)
            printf("%s%s", i ? "|" : "", t->names[i]);
        break;
    case TYPE_INT:
        printf("number");
        break;
    case TYPE_SIZE:
        printf("size");
        break;
    case TYPE_REF:
        printf("node name or definition");
        break;
    case TYPE_STRUCT:
    case TYPE_UNION:
    case TYPE_ARRAY:
    case TYPE_ANY:
    case TYPE_STR:
        printf("text");
        break;
    }
}

static void print_fields(const struct field *f, const char *prefix);
static void print_branches(const struct type *t, const char *prefix, const char *indent);

/* An object inside: its keys, dotted. */
static void print_object(const struct type *t, const char *name)
{
    char prefix[100];
    snprintf(prefix, sizeof(prefix), "%s.", name);
    print_fields(t->fields, prefix);
    if (t->kind == TYPE_UNION)
        print_branches(t, prefix, "    ");
}

static void print_fields(const struct field *f, const char *prefix)
{
    for (; f && f->name; f++) {
        char name[96];
        snprintf(name, sizeof(name), "%s%s", prefix, f->name);
        if (f->type->kind == TYPE_STRUCT || f->type->kind == TYPE_UNION) {
            print_object(f->type, name);
            continue;
        }
        printf("    %s%s=", f->flags & FIELD_OPTIONAL ? "[" : "", name);
        print_type(f->type);
        printf("%s  %s", f->flags & FIELD_OPTIONAL ? "]" : "", f->doc ? f->doc : "");
        if (f->dflt)
            printf(" (%s)", f->dflt);
        printf("\n");
    }
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static size_t sorted_tags(const struct type *t, const char **tags, size_t max)
{
    size_t n = 0;
    for (size_t i = 0; n < max && t->iterate(i); i++)
        tags[n++] = t->iterate(i);
    qsort(tags, n, sizeof(tags[0]), by_text);
    return n;
}

static void print_branches(const struct type *t, const char *prefix, const char *indent)
{
    const char *tags[256];
    size_t n = sorted_tags(t, tags, ARRAY_LEN(tags));
    for (size_t i = 0; i < n; i++) {
        const struct type *b = t->branch(tags[i]);
        printf("%s%s%s=%s\n", indent, prefix, t->tag, tags[i]);
        if (b)
            print_fields(b->fields, prefix);
    }
}

/* What images can be made with. */
static void print_creation(void)
{
    const char *tags[256];
    size_t n = sorted_tags(&type_blockdev_options, tags, ARRAY_LEN(tags));
    for (size_t i = 0; i < n; i++) {
        registry_for_each (blk_driver, d) {
            if (strcmp((*d)->name, tags[i]) || !(*d)->create_options)
                continue;
            printf("\n%s\n", tags[i]);
            print_fields((*d)->create_options->fields, "");
        }
    }
}

static void print_command(const struct command *c)
{
    printf("\n%s  %s\n", c->name, c->doc ? c->doc : "");
    if (c->args)
        print_fields(c->args->fields, "");
}

/* Sorted by name: n is small. */
static void print_commands(void)
{
    const char *last = "";
    for (;;) {
        const struct command *next = NULL;
        registry_for_each (command, it) {
            if (strcmp((*it)->name, last) > 0 && (!next || strcmp((*it)->name, next->name) < 0))
                next = *it;
        }
        if (!next)
            return;
        print_command(next);
        last = next->name;
    }
}

static int compare_options(const void *a, const void *b)
{
    return strcmp((*(const struct option_def *const *)a)->name,
                  (*(const struct option_def *const *)b)->name);
}

int control_print_help(const char *option)
{
    const struct option_def *all[64];
    size_t n = 0;
    bool found = !option;
    if (option)
        option += strspn(option, "-");
    registry_for_each (option, it) {
        if (n < ARRAY_LEN(all))
            all[n++] = *it;
    }
    qsort(all, n, sizeof(all[0]), compare_options);
    for (size_t i = 0; i < n; i++) {
        const struct type *t = all[i]->type;
        if (option && strcmp(option, all[i]->name))
            continue;
        printf("\n--%s  %s\n", all[i]->name, all[i]->doc ? all[i]->doc : "");
        print_fields(t->fields, "");
        if (t->kind == TYPE_UNION)
            print_branches(t, "", "  ");
        found = true;
    }
    if (!option) {
        printf("\nImage creation\n");
        print_creation();
        printf("\nQMP commands\n");
        print_commands();
    }
    if (!found)
        fprintf(stderr, "strongroom: no option --%s\n", option);
    return found ? 0 : 3;
}
