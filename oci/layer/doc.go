// Package layer turns trees into tars and tars into trees. It packs what an upper directory changed as an image layer,
// unpacks a layer into a directory that overlayfs can stack, and compresses and decompresses the bytes on their way.
//
// It does not know images, manifests, registries or stores: it neither names a layer nor remembers it, and it writes
// only into the directory or the stream that it is given.
//
// The form of the tar is that of the OCI image layer specification (layer.md): a deletion is an empty file .wh.NAME, a
// directory that hides everything below it holds .wh..wh..opq. Headers are ustar where everything fits and pax where it
// does not: long or non-ASCII names, large numbers, extended attributes (SCHILY.xattr.), times with nanoseconds.
package layer
