/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/sim/qemu.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[200];
static pid_t owner; /* of the folder: children make their own */

static const char *path(const char *name)
{
    static char text[4][240];
    static unsigned turn;
    if (owner != getpid()) {
        const char *tmp = getenv("TMPDIR");
        snprintf(folder, sizeof(folder), "%s/sim.XXXXXX", tmp ? tmp : "/tmp");
        if (!mkdtemp(folder))
            panic("sim: no folder for files in %s", folder);
        owner = getpid();
    }
    char *out = text[turn++ % 4];
    snprintf(out, sizeof(text[0]), "%s/%s", folder, name);
    return out;
}

void qemu_end(void)
{
    static const char *const names[] = {"file", "data", "backing", "raw"};
    if (owner != getpid())
        return;
    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        unlink(path(names[i]));
    rmdir(folder);
    owner = 0;
}

static void save(const char *name, const void *data, size_t len)
{
    FILE *f = fopen(path(name), "wb");
    if (!f || fwrite(data, 1, len, f) != len || fclose(f))
        panic("sim: cannot write %s", path(name));
}

void qemu_save(void)
{
    for (unsigned m = 0; m < MEDIA; m++)
        save(medium_names[m], media[m].data, media[m].size);
}

/* Its output, if it did not leave with one of the good ends. */
static const char *run(const char *command, unsigned good, struct heap *h)
{
    char text[2000];
    FILE *p = popen(command, "r");
    size_t n = p ? fread(text, 1, sizeof(text) - 1, p) : 0;
    int status = p ? pclose(p) : -1;
    text[n] = 0;
    if (WIFEXITED(status) && good >> WEXITSTATUS(status) & 1)
        return NULL;
    return heap_printf(h, "%s\n    status %#x: %s", command, (unsigned)status, text);
}

static const char *source(const struct subject *s, struct heap *h)
{
    const char *data = "", *backing = "";
    if (s->data_file)
        data = heap_printf(h, ",\"data-file\":{\"driver\":\"file\",\"filename\":\"%s\"}",
                           path("data"));
    if (s->backing)
        backing = heap_printf(h,
                              ",\"backing\":{\"driver\":\"raw\",\"file\":{\"driver\":\"file\","
                              "\"filename\":\"%s\"}}",
                              path("backing"));
    return heap_printf(h,
                       "'json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":"
                       "\"%s\"}%s%s}'",
                       path("file"), data, backing);
}

const char *qemu_judge(const struct subject *s, const uint8_t *content, struct heap *h)
{
    const char *from = source(s, h);
    const char *bad = run(heap_printf(h, "qemu-img check -q %s 2>&1", from), 1 << 0 | 1 << 3, h);
    if (bad)
        return bad;
    save("raw", content, s->size);
    return run(heap_printf(h, "qemu-img compare -q -F raw %s %s 2>&1", from, path("raw")), 1, h);
}

const char *qemu_change(const char *words, struct heap *h)
{
    struct medium *m = &media[MEDIUM_FILE];
    qemu_save();
    const char *bad = run(heap_printf(h, "qemu-img %s %s 2>&1", words, path("file")), 1, h);
    FILE *f = bad ? NULL : fopen(path("file"), "rb");
    if (f) {
        m->size = fread(m->data, 1, m->capacity, f);
        fclose(f);
    }
    return bad;
}
