/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * `strongroom create -f FMT [-o NAME=VALUE,...] [-b BACKING -F FMT] [-u] [-q] FILE [SIZE]`: images,
 * with the letters, the words and the sentences of `qemu-img create`.
 *
 *     -o, -b, -F, SIZE  -> words by QEMU's names (cluster_size, compat): `said`
 *                       -> the driver's table of create_options: `opts`
 *     FILE, data_file   -> made by us, as the protocol layer would, and taken away again when the
 *                          image could not be made
 *
 * A backing file is opened before anything is made, because its size is the default, and to see that
 * it can be; not with -u. Its format is never guessed. What stands in FILE is not touched before the
 * options have been accepted. The size is rounded up to whole sectors, without a word.
 */
#include "blk/blk.h"
#include "board/host/host.h"
#include "board/host/lock.h"
#include "board/main.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR    512u
#define MAX_FILES 2
#define NAME_SIZE 64

static const char create_usage[] =
    "usage: strongroom create [-f FMT] [-o NAME=VALUE,...] [-b BACKING -F FMT] [-u] [-q] FILE "
    "[SIZE]\n"
    "  -f FMT            format of the image (raw)\n"
    "  -o NAME=VALUE,... its options; -o help lists them\n"
    "  -b BACKING        image below, relative to FILE; its size is the default\n"
    "  -F FMT            format of BACKING\n"
    "  -u                do not look at BACKING\n"
    "  -q                say nothing\n"
    "  SIZE              bytes, or with a suffix: k, M, G, T, P, E\n";

static struct {
    const char *format, *file, *size;
    const struct blk_driver *drv;
    struct value *said; /* words by QEMU's names: what is printed */
    struct value *opts; /* the same for the driver's table */
    struct arena arena; /* decoded options, and names */
    bool unsafe, quiet, nocow;
    const char *made[MAX_FILES]; /* files that were not there before */
    unsigned nmade;
    struct error err;
    int status;
} job = {.format = "raw", .status = 1};

static int no_memory(void)
{
    return error_set(&job.err, SR_ENOMEM, "%s", sr_strerror(SR_ENOMEM));
}

static int set(struct value *dict, const char *key, struct value *v)
{
    return value_dict_set(dict, key, v) ? no_memory() : 0;
}

/* ---- options and their names ------------------------------------------------------------------ */

/* On the command line: with underscores, and one that has a name of its own there. */
static void said_name(const struct field *f, char name[NAME_SIZE])
{
    snprintf(name, NAME_SIZE, "%s", strcmp(f->name, "version") ? f->name : "compat");
    for (char *p = name; *p; p++)
        if (*p == '-')
            *p = '_';
}

static const struct field *find_field(const char *said)
{
    char name[NAME_SIZE];
    for (const struct field *f = job.drv->create_options->fields; f->name; f++) {
        said_name(f, name);
        if (!strcmp(name, said))
            return f;
    }
    return NULL;
}

/* What is wrong with a value is said before anything is done, but for names, which the table
 * knows. */
static int check_value(const struct field *f, const char *name, const struct value *v)
{
    uint64_t scratch[4];
    enum type_kind kind = f->type->kind;
    if (kind == TYPE_ENUM || kind == TYPE_REF ||
        !schema_decode(f->type, v, SCHEMA_TEXT, scratch, &job.arena, NULL))
        return 0;
    if (kind == TYPE_BOOL)
        return error_set(&job.err, SR_EINVAL, "Parameter '%s' expects 'on' or 'off'", name);
    if (kind == TYPE_INT)
        return error_set(&job.err, SR_EINVAL, "Parameter '%s' expects a number", name);
    return error_set(&job.err, SR_EINVAL,
                     "Parameter '%s' expects a non-negative number below 2^64\n"
                     "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
                     "and exabytes, respectively.",
                     name);
}

static struct value *file_definition(const char *driver, const char *path)
{
    struct value *def = value_dict();
    if (def && (value_dict_set(def, "driver", value_str(driver)) ||
                value_dict_set(def, "filename", value_str(path)))) {
        value_free(def);
        def = NULL;
    }
    return def;
}

static struct value *translated(const struct field *f, const char *text)
{
    if (f->type->kind == TYPE_REF)
        return file_definition("file", text);
    if (!strcmp(f->name, "version") && !strcmp(text, "0.10"))
        text = "v2";
    if (!strcmp(f->name, "version") && !strcmp(text, "1.1"))
        text = "v3";
    return value_str(text);
}

static int take_option(const char *name, const struct value *v)
{
    const struct field *f = find_field(name);
    if (!strcmp(name, "nocow")) /* the file's own */
        return schema_decode(&type_bool, v, SCHEMA_TEXT, &job.nocow, &job.arena, &job.err);
    if (!f || value_kind(v) != VALUE_STR)
        return error_set(&job.err, SR_EINVAL, "Invalid parameter '%s'", name);
    int r = check_value(f, name, v);
    return r ? r : set(job.opts, f->name, translated(f, value_get_str(v)));
}

static int take_options(void)
{
    int r = 0;
    for (size_t i = 0; i < value_count(job.said) && !r; i++)
        r = take_option(value_key_at(job.said, i), value_at(job.said, i));
    return r;
}

static int print_options(void)
{
    printf("Supported %s options:\n", job.format);
    for (const struct field *f = job.drv->create_options->fields; f->name; f++) {
        char name[NAME_SIZE];
        said_name(f, name);
        printf("  %-18s - %s\n", name, f->doc);
    }
    printf("  %-18s - Turn off copy-on-write of the file (where the file system has it)\n",
           "nocow");
    return 0;
}

/* ---- what is done ----------------------------------------------------------------------------- */

static void print_text(const char *s)
{
    for (; *s; s++) {
        if (*s == ',')
            putchar(',');
        putchar(*s);
    }
}

static void print_value(const struct field *f, const char *text)
{
    struct value *v = value_str(text);
    uint64_t size;
    if (f->type->kind == TYPE_SIZE && v &&
        !schema_decode(f->type, v, SCHEMA_TEXT, &size, &job.arena, NULL))
        printf("%llu", (unsigned long long)size);
    else
        print_text(text);
    value_free(v);
}

/* In the order of the table, with the defaults that QEMU mentions. */
static void print_formatting(void)
{
    printf("Formatting '%s', fmt=%s", job.file, job.format);
    for (const struct field *f = job.drv->create_options->fields; f->name; f++) {
        char name[NAME_SIZE];
        said_name(f, name);
        const struct value *v = value_get(job.said, name);
        const char *text = v ? value_get_str(v) : f->dflt;
        if (!text)
            continue;
        printf(" %s=", name);
        print_value(f, text);
    }
    if (value_get(job.said, "nocow"))
        printf(" nocow=%s", value_get_str(value_get(job.said, "nocow")));
    printf("\n");
    fflush(stdout);
}

/* ---- the backing file ------------------------------------------------------------------------- */

static const char *said(const char *name)
{
    const struct value *v = value_get(job.said, name);
    return v ? value_get_str(v) : NULL;
}

/* {driver: FMT, read-only: true, file: what the name says}; NULL with err. */
static struct value *backing_definition(const char *name, const char *format)
{
    struct value *file = volume_resolve(name, job.file, &job.err),
                 *def = file ? value_dict() : NULL;
    if (def && (value_dict_set(def, "driver", value_str(format)) ||
                value_dict_set(def, "read-only", value_bool(true)))) {
        value_free(def);
        def = NULL;
    }
    if (def && !value_dict_set(def, "file", file))
        return def;
    if (file && !def)
        value_free(file);
    value_free(def);
    no_memory(); /* unless something else was said */
    return NULL;
}

static int set_size(uint64_t size)
{
    char text[24];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)size);
    return set(job.said, "size", value_str(text));
}

static int co_look_at_backing(const char *name, const char *format)
{
    struct node *n;
    if (!verb_driver(format))
        return error_set(&job.err, SR_EINVAL, "Unknown driver '%s'\nCould not open backing image.",
                         format);
    struct value *def = backing_definition(name, format);
    if (!def)
        return SR_EINVAL;
    struct error err = {0};
    int r = co_node_open(def, false, false, &n, &err);
    value_free(def);
    if (r)
        return error_set(&job.err, r, "%s\nCould not open backing image.", err.msg);
    if (!said("size"))
        r = set_size(align_up(n->size, SECTOR));
    co_node_unref(n);
    return r;
}

static int co_check_backing(void)
{
    const char *name = said("backing_file"), *format = said("backing_fmt");
    if (!name)
        return 0;
    if (!strcmp(name, job.file))
        return error_set(&job.err, SR_EINVAL,
                         "Error: Trying to create an image with the same filename as the backing "
                         "file");
    if (!*name)
        return error_set(&job.err, SR_EINVAL, "Expected backing file name, got empty string");
    if (!format)
        return error_set(&job.err, SR_EINVAL, "Backing file specified without backing format");
    return job.unsafe ? 0 : co_look_at_backing(name, format);
}

/* ---- files ------------------------------------------------------------------------------------ */

static int could_not_create(const char *path)
{
    return error_set(&job.err, sr_from_linux(errno), "Could not create '%s': %s", path,
                     strerror(errno));
}

/* Of a file system that has it, and of an empty file. Elsewhere there is nothing to turn off. */
static void turn_off_cow(int fd)
{
    int flags;
    if (!ioctl(fd, FS_IOC_GETFLAGS, &flags)) {
        flags |= FS_NOCOW_FL;
        (void)!ioctl(fd, FS_IOC_SETFLAGS, &flags);
    }
}

static int make_file(const char *path, bool empty)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd >= 0)
        job.made[job.nmade++] = path;
    else if (errno == EEXIST)
        fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return could_not_create(path);
    int r = image_lock(fd, true, false, LOCKING_AUTO, path, &job.err); /* it may be in use */
    if (!r && empty && ftruncate(fd, 0))
        r = could_not_create(path);
    if (!r && job.nocow)
        turn_off_cow(fd);
    close(fd);
    return r;
}

static bool same_file(const char *a, const char *b)
{
    struct stat x, y;
    return !stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* The image is kept until it is known that a new one can be made; a data file is emptied, as new
 * ones are. */
static int make_files(void)
{
    const char *data = said("data_file");
    int r = make_file(job.file, false);
    if (!r && data && same_file(data, job.file))
        return error_set(&job.err, SR_EINVAL,
                         "Error: Trying to create an image with the same filename as the data "
                         "file");
    return !r && data ? make_file(data, true) : r;
}

static void remove_files(void)
{
    while (job.nmade)
        unlink(job.made[--job.nmade]);
}

/* ---- the image -------------------------------------------------------------------------------- */

static int co_create_in(struct child *file, const void *opts)
{
    return job.drv->co_create(file, opts, &job.err);
}

static int co_make_image(void)
{
    const struct type *t = job.drv->create_options;
    void *opts = arena_alloc(&job.arena, t->size);
    int r =
        opts ? schema_decode(t, job.opts, SCHEMA_TEXT, opts, &job.arena, &job.err) : no_memory();
    if (!r)
        r = make_files();
    return r ? r : co_verb_with_file(job.file, true, co_create_in, opts, &job.err);
}

/* As text: that is how the driver's table gets it. */
static int round_size(void)
{
    char text[24];
    uint64_t size;
    int r = schema_decode(&type_size, value_get(job.said, "size"), SCHEMA_TEXT, &size, &job.arena,
                          &job.err);
    if (r)
        return r;
    if (size > INT64_MAX - SECTOR)
        return error_set(&job.err, SR_EINVAL, "The image size is too large for file format '%s'",
                         job.format);
    snprintf(text, sizeof(text), "%llu", (unsigned long long)align_up(size, SECTOR));
    return set(job.opts, "size", value_str(text));
}

static int co_create(void)
{
    int r = take_options();
    if (!r)
        r = co_check_backing();
    if (!r && !said("size"))
        r = error_set(&job.err, SR_EINVAL, "Image creation needs a size parameter");
    if (r)
        return r;
    if (!job.quiet)
        print_formatting();
    r = round_size();
    return r ? r : co_make_image();
}

static void co_main(void *arg)
{
    (void)arg;
    int r = co_create();
    job.status = r != 0;
    if (r) {
        remove_files();
        fprintf(stderr, "strongroom: %s: %s\n", job.file,
                job.err.set ? job.err.msg : sr_strerror(r));
    }
    loop_stop();
}

static void cut_short(void)
{
    remove_files();
    _exit(1);
}

/* ---- words ------------------------------------------------------------------------------------ */

static int say_usage(const char *sentence, const char *what)
{
    fprintf(stderr, "strongroom: %s%s\nTry 'strongroom create --help' for more information\n",
            sentence, what);
    return 1;
}

static int say(const char *sentence)
{
    fprintf(stderr, "strongroom: %s: %s\n", job.file ? job.file : job.format, sentence);
    return 1;
}

/* More of -o: later words count. NULL: no memory. */
static char *join(char *options, const char *more)
{
    char *all;
    if (asprintf(&all, "%s%s%s", options ? options : "", options ? "," : "", more) < 0)
        all = NULL;
    free(options);
    return all;
}

struct words {
    char *options;
    const char *backing, *backing_fmt;
};

/* -1: go on; else the status to leave with. */
static int take_word(struct words *w, int letter)
{
    switch (letter) {
    case 'f':
        job.format = optarg;
        return -1;
    case 'o':
        w->options = join(w->options, optarg);
        return w->options ? -1 : 1;
    case 'b':
        w->backing = optarg;
        return -1;
    case 'F':
        w->backing_fmt = optarg;
        return -1;
    case 'u':
        job.unsafe = true;
        return -1;
    case 'q':
        job.quiet = true;
        return -1;
    case 'h':
        fputs(create_usage, stdout);
        return 0;
    default:
        return say_usage("unrecognized option, or one without its argument", "");
    }
}

static int take_words(struct words *w, int argc, char **argv)
{
    static const struct option longer[] = {{"help", no_argument, NULL, 'h'}, {0}};
    int letter, status = -1;
    optind = 1;
    opterr = 0;
    while (status < 0 && (letter = getopt_long(argc, argv, "f:o:b:F:uqh", longer, NULL)) >= 0)
        status = take_word(w, letter);
    if (status >= 0)
        return status;
    job.file = optind < argc ? argv[optind++] : NULL;
    job.size = optind < argc ? argv[optind++] : NULL;
    if (optind < argc)
        return say_usage("Unexpected argument: ", argv[optind]);
    return -1;
}

/* Words outside of -o, under the names that they have there. */
static int add_words(const struct words *w)
{
    int r = 0;
    if (w->backing && !find_field("backing_file"))
        return error_set(&job.err, SR_EINVAL, "Backing file not supported for file format '%s'",
                         job.format);
    if (w->backing_fmt && !find_field("backing_fmt"))
        return error_set(&job.err, SR_EINVAL,
                         "Backing file format not supported for file format '%s'", job.format);
    if (w->backing)
        r = set(job.said, "backing_file", value_str(w->backing));
    if (!r && w->backing_fmt)
        r = set(job.said, "backing_fmt", value_str(w->backing_fmt));
    if (!r && job.size && said("size"))
        return error_set(&job.err, SR_EINVAL, "The image size must be specified only once");
    return !r && job.size ? set(job.said, "size", value_str(job.size)) : r;
}

static int check_size(void)
{
    struct value *v = value_str(job.size);
    uint64_t size = 0;
    int r = v ? schema_decode(&type_size, v, SCHEMA_TEXT, &size, &job.arena, NULL) : SR_ENOMEM;
    value_free(v);
    if (!r && size <= INT64_MAX)
        return -1;
    fputs(r ? "strongroom: Invalid image size specified. You may use k, M, G, T, P or E suffixes "
              "for\n"
              "strongroom: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.\n"
            : "strongroom: Invalid image size specified. Must be between 0 and "
              "9223372036854775807.\n",
          stderr);
    return 1;
}

static int find_format(void)
{
    char sentence[160];
    job.drv = verb_driver(job.format);
    if (job.drv && job.drv->co_create)
        return -1;
    snprintf(sentence, sizeof(sentence),
             job.drv ? "Format driver '%s' does not support image creation"
                     : "Unknown file format '%s'",
             job.format);
    return say(sentence);
}

static int prepare(const struct words *w)
{
    int status = find_format();
    if (status >= 0)
        return status;
    if (w->options && !strcmp(w->options, "help"))
        return print_options();
    if (!job.file)
        return say_usage("Expecting image file name", "");
    if (job.size && (status = check_size()) >= 0)
        return status;
    job.opts = value_dict();
    job.said = w->options ? schema_parse_keyval(w->options, NULL, &job.err) : value_dict();
    if (!job.opts || !job.said || add_words(w))
        return say(job.err.set ? job.err.msg : sr_strerror(SR_ENOMEM));
    return -1;
}

int create_subcommand(int argc, char **argv)
{
    struct words w = {0};
    arena_init(&job.arena);
    int status = take_words(&w, argc, argv);
    if (status < 0)
        status = prepare(&w);
    free(w.options);
    if (status >= 0)
        return status;
    verb_run(co_main, cut_short);
    return job.status;
}
