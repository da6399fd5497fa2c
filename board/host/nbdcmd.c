/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * `strongroom nbd [-f FMT] [-r] [-k SOCK | -b ADDR -p PORT] [-x NAME] [-e N] [-t] FILE`, with
 * qemu-nbd's letters: put into the same words that anyone could have typed, and nothing more.
 * The format is raw unless said, never guessed. It serves until SIGTERM with or without -t, to as
 * many clients at a time as --nbd-server lets in by default.
 */
#include "board/host/host.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXIT_USAGE 3
#define MAX_WORDS  8

struct nbd_words {
    const char *format, *socket, *bind, *port, *name, *shared, *file;
    bool read_only;
};

static const char nbd_usage[] =
    "usage: strongroom nbd [-f FMT] [-r] [-k SOCK | -b ADDR -p PORT] [-x NAME] [-e N] [-t] FILE\n"
    "  -f, --format=FMT       format of FILE (raw)\n"
    "  -r, --read-only        export read-only\n"
    "  -k, --socket=SOCK      listen on this unix socket\n"
    "  -b, --bind=ADDR        listen on this address (0.0.0.0)\n"
    "  -p, --port=PORT        ... and port (10809)\n"
    "  -x, --export-name=NAME name of the export (the empty one)\n"
    "  -e, --shared=N         clients at a time (100)\n"
    "  -t, --persistent       go on when the last client has gone (it always does)\n"
    "What clients trim is discarded in FILE.\n";

static const struct option long_words[] = {
    {"format", required_argument, NULL, 'f'}, {"read-only", no_argument, NULL, 'r'},
    {"socket", required_argument, NULL, 'k'}, {"bind", required_argument, NULL, 'b'},
    {"port", required_argument, NULL, 'p'},   {"export-name", required_argument, NULL, 'x'},
    {"shared", required_argument, NULL, 'e'}, {"persistent", no_argument, NULL, 't'},
    {"help", no_argument, NULL, 'h'},         {0},
};

/* -1: go on; else the status to leave with. */
static int take_word(struct nbd_words *w, int letter)
{
    switch (letter) {
    case 'f':
        w->format = optarg;
        return -1;
    case 'r':
        w->read_only = true;
        return -1;
    case 'k':
        w->socket = optarg;
        return -1;
    case 'b':
        w->bind = optarg;
        return -1;
    case 'p':
        w->port = optarg;
        return -1;
    case 'x':
        w->name = optarg;
        return -1;
    case 'e':
        w->shared = optarg;
        return -1;
    case 't':
        return -1;
    case 'h':
        fputs(nbd_usage, stdout);
        return 0;
    default:
        fputs(nbd_usage, stderr);
        return EXIT_USAGE;
    }
}

static int take_words(struct nbd_words *w, int argc, char **argv)
{
    int letter, status = -1;
    optind = 1;
    while (status < 0 &&
           (letter = getopt_long(argc, argv, "f:rk:b:p:x:e:th", long_words, NULL)) >= 0)
        status = take_word(w, letter);
    if (status >= 0)
        return status;
    bool both = w->socket && (w->bind || w->port);
    if (optind + 1 != argc || both) {
        fputs(nbd_usage, stderr);
        return EXIT_USAGE;
    }
    w->file = argv[optind];
    return -1;
}

/* Words are put together in memory that stays. */
struct words {
    char *word[MAX_WORDS + 1];
    int n;
    size_t len;
};

static FILE *begin(struct words *w)
{
    FILE *f = open_memstream(&w->word[w->n++], &w->len);
    if (!f)
        abort();
    return f;
}

/* ",KEY=VALUE" as it stands in an option: commas of the value are doubled. */
static void put(FILE *f, const char *key, const char *value)
{
    fprintf(f, ",%s=", key);
    for (; *value; value++)
        fputs(*value == ',' ? ",," : (char[]){*value, 0}, f);
}

static void add(struct words *w, const char *word)
{
    FILE *f = begin(w);
    fputs(word, f);
    fclose(f);
}

static void add_node(struct words *w, const char *driver, const char *name, const char *key,
                     const char *value, bool read_only)
{
    add(w, "--blockdev");
    FILE *f = begin(w);
    fputs("discard=unmap", f);
    put(f, "driver", driver);
    put(f, "node-name", name);
    put(f, key, value);
    put(f, "read-only", read_only ? "on" : "off");
    fclose(f);
}

static void add_server(struct words *w, const struct nbd_words *o)
{
    add(w, "--nbd-server");
    FILE *f = begin(w);
    fprintf(f, "addr.type=%s", o->socket ? "unix" : "inet");
    if (o->socket) {
        put(f, "addr.path", o->socket);
    } else {
        put(f, "addr.host", o->bind ? o->bind : "0.0.0.0");
        put(f, "addr.port", o->port ? o->port : "10809");
    }
    if (o->shared)
        put(f, "max-connections", o->shared);
    fclose(f);
}

static void add_export(struct words *w, const struct nbd_words *o)
{
    add(w, "--export");
    FILE *f = begin(w);
    fputs("type=nbd,id=nbd,node-name=volume", f);
    put(f, "name", o->name);
    put(f, "writable", o->read_only ? "off" : "on");
    fclose(f);
}

int nbd_subcommand(int argc, char **argv, int *argc_out, char ***argv_out)
{
    static struct words words;
    struct nbd_words o = {.format = "raw", .name = ""};
    int status = take_words(&o, argc, argv);
    if (status >= 0)
        return status;
    add_node(&words, "file", "file", "filename", o.file, o.read_only);
    add_node(&words, o.format, "volume", "file", "file", o.read_only);
    add_server(&words, &o);
    add_export(&words, &o);
    *argc_out = words.n;
    *argv_out = words.word;
    return -1;
}
