# SPDX-License-Identifier: BSD-2-Clause
# Image formats, in every form.
SRC_ALL += formats/raw.c formats/compress.c
SRC_ALL += $(addprefix formats/qcow2/,open.c header.c snapshot.c l2.c map.c read.c cluster.c squeeze.c \
                 status.c create.c \
                 writer.c write.c link.c alloc.c commit.c refcount.c update.c copy.c verify.c inactive.c \
                 check.c check_walk.c repair.c)
