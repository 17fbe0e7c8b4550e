package sbom

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// spdxDocument is an SPDX 2.3 document (spdx.github.io/spdx-spec/v2.3), as much of it as is written.
type spdxDocument struct {
	SPDXVersion       string             `json:"spdxVersion"`
	DataLicense       string             `json:"dataLicense"`
	SPDXID            string             `json:"SPDXID"`
	Name              string             `json:"name"`
	DocumentNamespace string             `json:"documentNamespace"`
	Comment           string             `json:"comment,omitempty"`
	CreationInfo      spdxCreation       `json:"creationInfo"`
	Packages          []spdxPackage      `json:"packages"`
	Relationships     []spdxRelationship `json:"relationships"`
	Licenses          []spdxLicense      `json:"hasExtractedLicensingInfos,omitempty"`

	quoted map[string]bool // the IDs of Licenses
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	Name             string    `json:"name"`
	SPDXID           string    `json:"SPDXID"`
	VersionInfo      string    `json:"versionInfo,omitempty"`
	Supplier         string    `json:"supplier,omitempty"`
	DownloadLocation string    `json:"downloadLocation"`
	FilesAnalyzed    bool      `json:"filesAnalyzed"`
	SourceInfo       string    `json:"sourceInfo,omitempty"`
	LicenseConcluded string    `json:"licenseConcluded"`
	LicenseDeclared  string    `json:"licenseDeclared"`
	CopyrightText    string    `json:"copyrightText"`
	ExternalRefs     []spdxRef `json:"externalRefs,omitempty"`
	Purpose          string    `json:"primaryPackagePurpose,omitempty"`
	Description      string    `json:"description,omitempty"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

// spdxLicense is what a package says of its license where that is no expression.
type spdxLicense struct {
	ID   string `json:"licenseId"`
	Text string `json:"extractedText"`
	Name string `json:"name"`
}

const (
	spdxDocumentID  = "SPDXRef-DOCUMENT"
	spdxImageID     = "SPDXRef-Image"
	spdxOSID        = "SPDXRef-OperatingSystem"
	spdxUnsaid      = "NOASSERTION"
	spdxNamespace   = "https://spdx.org/spdxdocs/builder-"
	spdxLicenseMark = "LicenseRef-"
)

// spdx words the inventory; id makes the document's namespace its own.
func (inv *Inventory) spdx(about About, id string) any {
	d := &spdxDocument{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: spdxDocumentID, Name: about.Name,
		DocumentNamespace: spdxNamespace + id, CreationInfo: spdxCreation{when(about.Created), []string{"Tool: builder-" + word(about.Tool)}},
		quoted: map[string]bool{},
	}
	if len(inv.Unread) > 0 {
		d.Comment = "Not read: " + strings.Join(inv.Unread, "; ")
	}
	d.add(spdxDocumentID, "DESCRIBES", spdxPackage{Name: about.Name, SPDXID: spdxImageID, VersionInfo: about.ID, Purpose: "CONTAINER"})
	if inv.OS.ID != "" {
		d.add(spdxImageID, "CONTAINS", spdxPackage{Name: inv.OS.ID, SPDXID: spdxOSID, VersionInfo: inv.OS.Version,
			Purpose: "OPERATING_SYSTEM", Description: inv.OS.Name})
	}
	for i := range inv.Packages {
		p := &inv.Packages[i]
		d.add(spdxImageID, "CONTAINS", spdxPackage{
			Name: p.Name, SPDXID: "SPDXRef-Package-" + unlike(p.Name, p.PURL), VersionInfo: p.Version, Supplier: spdxSupplier(p.Supplier),
			SourceInfo: "found in " + strings.Join(p.Found, ", "), LicenseDeclared: d.declared(p.Licenses),
			ExternalRefs: []spdxRef{{"PACKAGE-MANAGER", "purl", p.PURL}},
		})
	}
	return d
}

// add puts a package in its place, with what must be said of each.
func (d *spdxDocument) add(from, relation string, p spdxPackage) {
	p.DownloadLocation, p.LicenseConcluded, p.CopyrightText = spdxUnsaid, spdxUnsaid, spdxUnsaid
	if p.LicenseDeclared == "" {
		p.LicenseDeclared = spdxUnsaid
	}
	d.Packages = append(d.Packages, p)
	d.Relationships = append(d.Relationships, spdxRelationship{from, relation, p.SPDXID})
}

// spdxSupplier turns "Name <address>" into "Organization: Name (address)".
func spdxSupplier(s string) string {
	if s == "" {
		return ""
	}
	return "Organization: " + strings.NewReplacer("(", "", ")", "", "<", "(", ">", ")").Replace(s)
}

// declared makes one expression of all licenses. What SPDX has no name for is quoted in the document under one of its own.
func (d *spdxDocument) declared(licenses []string) string {
	all := make([]string, len(licenses))
	for i, l := range licenses {
		all[i] = expression(l)
		if all[i] == "" {
			all[i] = d.extracted(l)
		}
	}
	return allOf(all)
}

// extracted is the name under which the document quotes a license.
func (d *spdxDocument) extracted(text string) string {
	id := spdxLicenseMark + unlike(text, text)
	if !d.quoted[id] {
		d.quoted[id] = true
		d.Licenses = append(d.Licenses, spdxLicense{id, text, text})
	}
	return id
}

// unlike makes an SPDX identifier of a name, with a part that no other origin has.
func unlike(name, origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' {
			return r
		}
		return '-'
	}, name) + "-" + hex.EncodeToString(sum[:8])
}
