/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * `strongroom check [-f FMT] [-r leaks|all] [--output=human|json] [-q] FILE`: images looked through
 * and repaired, with qemu-img's letters, output and status:
 *
 *     0   nothing is wrong (any more)      2   errors      63   a format without checks
 *     1   could not be looked through      3   leaks
 *
 * The format is qcow2 unless said, never guessed. What was repaired is looked through once more, and
 * this second result is told. What is wrong in detail goes to stderr: the first of it.
 */
#include "blk/blk.h"
#include "board/host/host.h"
#include "control/json.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long long ull;

#define SAY_MOST 100u /* lines about what is wrong */

static const char check_usage[] =
    "usage: strongroom check [-f FMT] [-r leaks|all] [--output=human|json] [-q] FILE\n"
    "  -f, --format=FMT    format of FILE (qcow2)\n"
    "  -r, --repair=WHAT   repair what is wrong: leaks, or all\n"
    "  --output=FORMAT     human, or json\n"
    "  -q                  say nothing but what is wrong\n";

static struct {
    const char *format, *file;
    const struct blk_driver *drv;
    unsigned fix;
    bool json, quiet;
    struct blk_check found;
    struct error err;
    unsigned said;
    int status;
} job = {.format = "qcow2", .status = 1};

/* ---- what is told ----------------------------------------------------------------------------- */

static void print_counts(const struct blk_check *k)
{
    if (!k->corruptions && !k->leaks && !k->check_errors)
        printf("No errors were found on the image.\n");
    if (k->corruptions)
        printf("\n%llu errors were found on the image.\n"
               "Data may be corrupted, or further writes to the image may corrupt it.\n",
               (ull)k->corruptions);
    if (k->leaks)
        printf("\n%llu leaked clusters were found on the image.\n"
               "This means waste of disk space, but no harm to data.\n",
               (ull)k->leaks);
    if (k->check_errors)
        printf("\n%llu internal errors have occurred during the check.\n", (ull)k->check_errors);
}

static void print_human(const struct blk_check *k)
{
    print_counts(k);
    double allocated = (double)k->allocated_clusters;
    if (k->total_clusters && k->allocated_clusters)
        printf("%llu/%llu = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed clusters\n",
               (ull)k->allocated_clusters, (ull)k->total_clusters,
               allocated * 100 / (double)k->total_clusters,
               (double)k->fragmented_clusters * 100 / allocated,
               (double)k->compressed_clusters * 100 / allocated);
    if (k->image_end_offset)
        printf("Image end offset: %llu\n", (ull)k->image_end_offset);
}

/* QEMU's ImageCheck: what is 0 is left out, but for check-errors. */
static const struct {
    const char *name;
    size_t offset;
} counts[] = {
    {"image-end-offset", offsetof(struct blk_check, image_end_offset)},
    {"total-clusters", offsetof(struct blk_check, total_clusters)},
    {"check-errors", offsetof(struct blk_check, check_errors)},
    {"corruptions", offsetof(struct blk_check, corruptions)},
    {"corruptions-fixed", offsetof(struct blk_check, corruptions_fixed)},
    {"leaks", offsetof(struct blk_check, leaks)},
    {"leaks-fixed", offsetof(struct blk_check, leaks_fixed)},
    {"allocated-clusters", offsetof(struct blk_check, allocated_clusters)},
    {"fragmented-clusters", offsetof(struct blk_check, fragmented_clusters)},
    {"compressed-clusters", offsetof(struct blk_check, compressed_clusters)},
};

static void print_json(const struct blk_check *k)
{
    struct value *v = value_dict();
    int r = v ? 0 : SR_ENOMEM;
    for (size_t i = 0; i < ARRAY_LEN(counts) && !r; i++) {
        uint64_t n = *(const uint64_t *)(const void *)((const char *)k + counts[i].offset);
        if (n || counts[i].offset == offsetof(struct blk_check, check_errors))
            r = value_dict_set(v, counts[i].name, value_uint(n));
    }
    if (!r)
        r = value_dict_set(v, "filename", value_str(job.file));
    if (!r)
        r = value_dict_set(v, "format", value_str(job.format));
    size_t len;
    char *text = r ? NULL : json_print(v, true, &len);
    if (text)
        printf("%s\n", text);
    sr_free(text);
    value_free(v);
}

/* ---- what is done ----------------------------------------------------------------------------- */

static void say_wrong(const char *line)
{
    if (job.said <= SAY_MOST)
        fprintf(stderr, "%s\n", job.said < SAY_MOST ? line : "and more of that");
    job.said++;
}

static int co_look(struct child *file, const void *arg)
{
    (void)arg;
    struct blk_check *k = &job.found;
    k->say = say_wrong;
    int r = job.drv->co_check(file, job.fix, k, &job.err);
    uint64_t leaks = k->leaks_fixed, corruptions = k->corruptions_fixed;
    if (r || !(leaks | corruptions))
        return r;
    if (!job.json && !job.quiet)
        printf("The following inconsistencies were found and repaired:\n\n"
               "    %llu leaked clusters\n"
               "    %llu corruptions\n\n"
               "Double checking the fixed image now...\n",
               (ull)leaks, (ull)corruptions);
    k->say = NULL;
    r = job.drv->co_check(file, 0, k, &job.err);
    k->leaks_fixed = leaks;
    k->corruptions_fixed = corruptions;
    return r;
}

static int status_of(const struct blk_check *k)
{
    if (k->check_errors)
        return 1;
    return k->corruptions ? 2 : k->leaks ? 3 : 0;
}

static void co_main(void *arg)
{
    (void)arg;
    int r = co_verb_with_file(job.file, job.fix, co_look, NULL, &job.err);
    job.status = r ? 1 : status_of(&job.found);
    if (!r && !job.quiet) {
        if (job.json)
            print_json(&job.found);
        else
            print_human(&job.found);
    }
    if (r)
        fprintf(stderr, "strongroom: %s: Check failed: %s\n", job.file,
                job.err.set ? job.err.msg : sr_strerror(r));
    loop_stop();
}

static void cut_short(void)
{
    _exit(1);
}

/* ---- words ------------------------------------------------------------------------------------ */

static int say(const char *sentence, const char *what)
{
    fprintf(stderr, "strongroom: %s%s\nTry 'strongroom check --help' for more information\n",
            sentence, what);
    return 1;
}

static int take_repair(const char *what)
{
    if (!strcmp(what, "leaks"))
        job.fix = BLK_FIX_LEAKS;
    else if (!strcmp(what, "all"))
        job.fix = BLK_FIX_LEAKS | BLK_FIX_ERRORS;
    else
        return say("Unknown option value for -r (expecting 'leaks' or 'all'): ", what);
    return -1;
}

static int take_output(const char *what)
{
    job.json = !strcmp(what, "json");
    if (job.json || !strcmp(what, "human"))
        return -1;
    return say("--output must be used with human or json as argument.", "");
}

/* -1: go on; else the status to leave with. */
static int take_word(int letter)
{
    switch (letter) {
    case 'f':
        job.format = optarg;
        return -1;
    case 'r':
        return take_repair(optarg);
    case 'o':
        return take_output(optarg);
    case 'q':
        job.quiet = true;
        return -1;
    case 'h':
        fputs(check_usage, stdout);
        return 0;
    default:
        return say("unrecognized option, or one without its argument", "");
    }
}

static int take_words(int argc, char **argv)
{
    static const struct option longer[] = {{"format", required_argument, NULL, 'f'},
                                           {"repair", required_argument, NULL, 'r'},
                                           {"output", required_argument, NULL, 'o'},
                                           {"help", no_argument, NULL, 'h'},
                                           {0}};
    int letter, status = -1;
    optind = 1;
    opterr = 0;
    while (status < 0 && (letter = getopt_long(argc, argv, "f:r:qh", longer, NULL)) >= 0)
        status = take_word(letter);
    if (status < 0 && optind + 1 != argc)
        return say("Expecting one image file name", "");
    job.file = argv[optind];
    return status;
}

static int find_format(void)
{
    job.drv = verb_driver(job.format);
    if (job.drv && job.drv->co_check)
        return -1;
    fprintf(stderr, "strongroom: %s: %s\n", job.file ? job.file : job.format,
            job.drv ? "This image format does not support checks" : "Unknown file format");
    return job.drv ? 63 : 1;
}

int check_subcommand(int argc, char **argv)
{
    int status = take_words(argc, argv);
    if (status < 0)
        status = find_format();
    if (status >= 0)
        return status;
    verb_run(co_main, cut_short);
    return job.status;
}
